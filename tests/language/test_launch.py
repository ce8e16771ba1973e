"""Two processes through the whole loop: one run by torchrun, then resumed by `--processes`.

The module with the reward records, in each process, the rollouts that the learner gets and the
gradients that it applies; what one process makes of the joined rollouts is computed here.
"""

import json
import os
import shutil
import subprocess
import sys
from multiprocessing import set_forkserver_preload
from pathlib import Path

import pytest
import torch

from reward_models.state import load_state
from rlhf_pg.checkpoint import Stopped, checkpoint_folders
from rlhf_pg.cli import main
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language import models
from rlhf_pg.language.config import train_config
from rlhf_pg.language.launch import launch
from rlhf_pg.language.policy import make_policy_and_reference
from rlhf_pg.resume import _differences
from rlhf_pg.runs import read_jsonl
from support import processes
from support.runs import ENVIRONMENT, TIMES, make_world

ITERATIONS, ROWS = 7, 8
RECORDER = """
import os
from dataclasses import fields

import torch

from rlhf_pg.core.learner import Learner

rank, calls, updates, update = os.environ["RANK"], [], [], Learner.update


def reward(completions, number, **columns):
    if rank == "1" and len(updates) + 1 == int(os.environ.get("DIES_AT", "-1")):
        raise ValueError("no score today")
    calls.append((completions, number, [float(len(text)) for text in completions]))
    return calls[-1][2]


def recorded(learner, rollout):
    completions, number, scores = calls[-1]
    before = [p.detach().clone() for p in learner.parameters]
    metrics = update(learner, rollout)
    updates.append({
        "number": torch.tensor(number),
        "scores": torch.tensor(scores),
        "before": before,
        "gradients": [p.grad.clone() for p in learner.parameters],
        "after": [p.detach().clone() for p in learner.parameters],
        "rollout": {
            field.name: getattr(rollout, field.name)
            for field in fields(rollout)
            if isinstance(getattr(rollout, field.name), (torch.Tensor, dict))
        },
    })
    torch.save(updates, f"{os.environ['RECORDS']}/{rank}.pt")
    return metrics


Learner.update = recorded
"""
TRAIN = (
    "train --algorithm a2c --samples_per_prompt 2 --learner.whiten_advantages true "
    "--learner.max_grad_norm 0 --learner.lr 0.01 --model base --data same.jsonl --max_new_tokens 6 "
    "--reward normalise(recorder.py:reward) --gold length:target=4 --kl_target 0.1 "
    f"--kl_horizon 40 --rows {ROWS} --iterations {ITERATIONS} --samples_every 2 --samples_kept 2 "
    "--checkpoint_every 2 --output"
).split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Prompts that differ only in a column, so that equal seeds would give equal samples."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    rows = [{"prompt": "the", "number": i} for i in range(5)]
    (folder / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recorder.py").write_text(RECORDER)
    return folder


@pytest.fixture(scope="module")
def whole(world):
    """The folder of a run by torchrun with the default device, and what it printed."""
    torchrun = "torch.distributed.run --standalone --nproc-per-node 2 -m rlhf_pg.cli".split()
    (world / "records").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *TRAIN, "whole"],
        cwd=world,
        env={**ENVIRONMENT, **os.environ, "RECORDS": "records"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return world / "whole", done.stdout


@pytest.fixture(scope="module")
def records(whole):
    """What each rank recorded, an entry for every update."""
    folder = whole[0].parent / "records"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def lines(whole):
    return read_jsonl(whole[0] / "metrics.jsonl")


@pytest.fixture
def forkserver(monkeypatch):
    """Processes start from one that has imported everything once."""
    monkeypatch.setattr("rlhf_pg.language.launch.START_METHOD", "forkserver")
    set_forkserver_preload(["rlhf_pg.language.train", "transformers.models.llama", "datasets"])


def joined(parts):
    """The rows of all ranks as one rollout, padded to the same width."""
    width = max(part["mask"].shape[1] for part in parts)

    def rows(name):
        values = [part[name] for part in parts]
        if isinstance(values[0], dict):
            return {key: torch.cat([value[key] for value in values]) for key in values[0]}
        return torch.cat([pad(value, (0, width - value.shape[1])) for value in values])

    pad = torch.nn.functional.pad
    return Rollout(**{name: rows(name) for name in parts[0]}, group_size=2)


def test_torchrun_makes_one_run_that_only_the_first_process_writes(world, whole, lines):
    folder, printed = whole
    assert [line["iteration"] for line in lines] == list(range(1, ITERATIONS + 1))
    samples = read_jsonl(folder / "samples.jsonl")
    assert [row["iteration"] for row in samples] == [1, 1, 2, 2, 4, 4, 6, 6]
    assert not (world / "runs").exists() and printed.count("policy in") == 1
    assert train_config(folder).processes == 2
    models.load(str(folder))


def test_each_process_has_its_own_prompts_and_samples(records):
    for first, second in zip(*records, strict=True):
        one, other = (set(part["number"].tolist()) for part in (first, second))
        assert len(one) == len(other) == ROWS // 2 // 2
        ids = [part["rollout"]["actions"].tolist() for part in (first, second)]
        assert len(ids[0]) == len(ids[1]) == ROWS // 2 and ids[0] != ids[1]
    # Two passes over five prompts are ten: each batch takes the next four.
    numbers = [n for parts in zip(*records, strict=True) for p in parts for n in p["number"][::2]]
    assert sorted(int(n) for n in numbers[:5]) == sorted(int(n) for n in numbers[5:10])
    assert sorted(int(n) for n in numbers[:5]) == list(range(5))


def test_the_gradient_is_that_of_the_joined_batch_and_weights_stay_identical(whole, records):
    config = train_config(whole[0])
    model, tokenizer = models.load(config.model if Path(config.model).is_absolute() else
                                   str(whole[0].parent / config.model))  # fmt: skip
    torch.manual_seed(config.seed)
    policy, _ = make_policy_and_reference(config, model, tokenizer, torch.device("cpu"))
    alone = Learner(policy, config.learner)
    for first, second in zip(*records, strict=True):
        for one, other in zip(first["after"], second["after"], strict=True):
            assert torch.equal(one, other)
        with torch.no_grad():
            for parameter, value in zip(alone.parameters, first["before"], strict=True):
                parameter.copy_(value)
        alone.update(joined([first["rollout"], second["rollout"]]))
        gradient = torch.cat([p.grad.flatten() for p in alone.parameters])
        for part in (first, second):
            applied = torch.cat([g.flatten() for g in part["gradients"]])
            assert (applied - gradient).abs().max() < 1e-6 < gradient.abs().max()
        for parameter, value in zip(alone.parameters, first["after"], strict=True):
            torch.testing.assert_close(parameter.detach(), value, atol=1e-6, rtol=1e-5)


def test_metrics_and_running_moments_are_those_of_all_rows(whole, records, lines):
    seen = torch.zeros(0)
    for line, first, second in zip(lines, *records, strict=True):
        scores = torch.cat([first["scores"], second["scores"]])
        seen = torch.cat([seen, scores])
        normalised = (scores - seen.mean()) / seen.std(correction=0)
        assert line["score"] == pytest.approx(float(normalised.mean()), abs=1e-4)
        assert line["score_std"] == pytest.approx(float(normalised.std(correction=0)), abs=1e-4)
        masks = [part["rollout"]["mask"].sum(1).float() for part in (first, second)]
        assert line["length"] == pytest.approx(float(torch.cat(masks).mean()))
    state = load_state(checkpoint_folders(whole[0])[0])
    first, second = state["processes"]
    assert first["reward"] == second["reward"]
    assert not torch.equal(first["generator"], second["generator"])
    assert not torch.equal(first["minibatches"], second["minibatches"])


def test_the_adaptive_coefficient_counts_the_rows_of_all_processes(lines):
    for line, after in zip(lines, lines[1:], strict=False):
        error = min(max(line["kl"] / 0.1 - 1, -0.2), 0.2)
        assert after["kl_coef"] == pytest.approx(line["kl_coef"] * (1 + error * ROWS / 40))


def test_it_resumes_bit_for_bit_and_ends_with_the_message_of_a_process_that_fails(
    world, whole, lines, tmp_path, monkeypatch, capfd, forkserver
):
    """From iteration 4, in processes that the command starts; the second fails in iteration 7."""
    part = tmp_path / "part"
    shutil.copytree(whole[0], part)
    for later in ("checkpoints/000006", "policy", "best"):
        shutil.rmtree(part / later)
    monkeypatch.chdir(world)
    monkeypatch.setenv("RECORDS", str(tmp_path))
    monkeypatch.setenv("DIES_AT", "3")
    assert main(["resume", str(part)]) == 2
    errors = capfd.readouterr().err
    assert errors.startswith("rlhf-pg: process 1: ") and errors.count("\n") == 1, errors
    assert "no score today" in errors
    states = [load_state(folder / "checkpoints" / "000006") for folder in (whole[0], part)]
    assert _differences(*states) == []
    for now, then in zip(read_jsonl(part / "metrics.jsonl"), lines, strict=False):
        assert {**now, **dict.fromkeys(TIMES)} == {**then, **dict.fromkeys(TIMES)}
    assert len(read_jsonl(part / "metrics.jsonl")) == 6 and not (part / "policy").exists()


@pytest.fixture
def quick(forkserver, monkeypatch):
    monkeypatch.setattr("rlhf_pg.language.launch.GRACE", 0.5)


@pytest.mark.parametrize(
    ("way", "end", "kind", "message"),
    [
        ("together", "killed", ChildProcessError, "^process 1 was ended by SIGKILL .*memory ran"),
        ("together", "refused", ChildProcessError, "^process 1: no such thing$"),
        ("apart", "left", ChildProcessError, "^process 1 was ended with code 3$"),
        ("apart", "broken", RuntimeError, "^process 1 failed:\nTraceback(.|\n)*in broken"),
        ("apart", "interrupted", KeyboardInterrupt, None),
    ],
)
def test_a_process_that_ends_early_ends_the_others_and_is_named(quick, way, end, kind, message):
    with pytest.raises(kind, match=message):
        launch(2, getattr(processes, way), getattr(processes, end))


def test_processes_that_stop_after_a_checkpoint_say_how_to_go_on(quick):
    with pytest.raises(Stopped, match="^continue with: resume 2$"):
        launch(2, processes.stopped)
