"""Tiny training runs for tests of checkpoints and faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import namedtuple
from pathlib import Path

from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.runs import read_jsonl
from support.language import TEXTS, tiny_lm

TIMES = ("seconds", "tokens_per_second", "training_seconds")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def make_world(folder):
    """base/, prompts.jsonl, pairs.jsonl, corpus.jsonl and rewards.py (support/faulty_rewards.py)
    for commands that run in `folder`."""
    shutil.copy(Path(__file__).with_name("faulty_rewards.py"), folder / "rewards.py")
    tokenizer = models.train_tokenizer(TEXTS, "word")
    models.save(folder / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    rows = {
        "prompts": [{"prompt": text.split()[0], "tags": {"words": ["a"]}} for text in TEXTS],
        "corpus": [{"text": text} for text in TEXTS * 30],
        "pairs": [
            {"prompt": a.split()[0], "chosen": " " + b, "rejected": " " + a + " " + b}
            for a in TEXTS
            for b in TEXTS
        ]
        * 8,
    }
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


TRAIN = (
    "train --model base --data prompts.jsonl --reward length:target=4 --rows 8 --max_new_tokens 6 "
    "--samples_every 2 --checkpoint_every 2 --algorithm"
).split()


def command(*words):
    """A command line that runs `rlhf-pg WORDS`."""
    return [sys.executable, "-m", "rlhf_pg.cli", *map(str, words)]


def run(folder, *words, **options):
    """Run a command to its end in `folder`."""
    return subprocess.run(
        command(*words), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, **options
    )


def kill_after(folder, output, lines, *words, number=signal.SIGKILL, delay=0.0):
    """Start a command, send a signal once metrics.jsonl has so many lines; its exit code, or None
    if it finished before."""
    process = subprocess.Popen(
        command(*words),
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = Path(folder) / output / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            time.sleep(delay)
            process.send_signal(number)
            break
        time.sleep(0.002)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


Finished = namedtuple("Finished", "code out err")  # the exit code, or minus a signal's number


class Forked:
    """`rlhf-pg WORDS` in a copy of this process, which costs no imports; `before()` runs in it
    first."""

    def __init__(self, folder, *words, before=None):
        self.files = [tempfile.TemporaryFile() for _ in range(2)]
        sys.stdout.flush(), sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of other threads: none hold locks
            self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                for number, file in enumerate(self.files, 1):
                    os.dup2(file.fileno(), number)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
                os.chdir(folder)
                if before:
                    before()
                code = main([str(word) for word in words])
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)

    def wait(self):
        """How it ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return Finished(code, *texts)


def forked(folder, *words, before=None):
    """Run a command to its end in a copy of this process."""
    return Forked(folder, *words, before=before).wait()


def content(run_folder):
    """Everything of a run that must repeat: logs without times, and all weights as bytes."""
    logs = {}
    for file in sorted(Path(run_folder).glob("*.jsonl")):
        logs[file.name] = [
            {key: value for key, value in row.items() if key not in TIMES}
            for row in read_jsonl(file)
        ]
    for part in ("policy", "best", "reward_model"):
        for file in sorted((Path(run_folder) / part).rglob("*.safetensors")):
            logs[str(file.relative_to(run_folder))] = file.read_bytes()
    return logs
