"""Rewards that do once what their names say; the others score lengths as `plain` does."""

import asyncio
import os
import resource
import shutil
import signal
import sys
import time

import torch

# By default the fifth call is in iteration 3 of a run that also samples fixed prompts.
CALL = int(os.environ.get("FAULTY_CALL", "5"))

calls = []


def now():
    """Whether it is time for the fault; only once."""
    calls.append(1)
    if len(calls) != CALL or os.path.exists("happened"):
        return False
    open("happened", "w").close()
    return True


def plain(completions, **columns):
    return [float(len(text)) for text in completions]


def raises(completions, **columns):
    if now():
        print(1 / 0)
    return plain(completions)


def hangs(completions, **columns):
    while now() or not calls:
        calls.clear()
        try:
            time.sleep(60)
        except Exception:
            pass
    return plain(completions)


def exits(completions, **columns):
    if now():
        sys.exit(0)
    return plain(completions)


def cancels(completions, **columns):
    if now():
        raise asyncio.CancelledError
    return plain(completions)


def forks(completions, **columns):
    if now():
        os.fork()
    return plain(completions)


def leaves_a_process(completions, **columns):
    if now():
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        open("child", "w").write(str(child))
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(completions)


def changes_settings(completions, **columns):
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    os.chdir("/")
    return plain(completions)


def edits(prompts, completions, tags, **columns):
    scores = plain(completions)
    prompts[:] = ["edited"] * len(prompts)
    completions.clear()
    for tag in tags:
        tag["words"].append("edited")
        tag.clear()
    columns["finished"].reverse()
    return scores


def removes_the_run(completions, **columns):
    if now():
        shutil.rmtree("run")
    return plain(completions)


def makes_it_read_only(completions, **columns):
    if now():
        for folder in ("run", "run/checkpoints"):
            os.chmod(folder, 0o555)
        for file in os.listdir("run"):
            if file.endswith(".jsonl"):
                os.chmod(f"run/{file}", 0o444)
    return plain(completions)


def fills_the_disk(completions, **columns):
    if now():
        longest = int(os.environ.get("FAULTY_BYTES", "3000"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
    return plain(completions)
