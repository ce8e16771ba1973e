"""An interrupted and resumed run equals an uninterrupted one, bit for bit."""

import os
import signal

import pytest

from reward_models.state import load_state, save_state
from rlhf_pg import checkpoint
from rlhf_pg.cli import main
from support.runs import TRAIN, content, kill_after, make_world, run

# name -> (arguments, iterations or steps in all, iteration to stop after)
RUNS = {
    **{
        name: ([*TRAIN, name, "--iterations", "5"], 3)
        for name in (
            "reinforce",
            "reinforce-baseline",
            "actor-critic",
            "a2c",
            "ppo",
            "rloo",
            "grpo",
        )
    },
    "moving-average": ([*TRAIN, "reinforce", "--learner.baseline", "moving-average"], 3),
    "lora": ([*TRAIN, "ppo", "--lora_rank", "2"], 3),
    "adaptive-kl": ([*TRAIN, "ppo", "--kl_target", "0.1", "--kl_horizon", "50"], 3),
    "separate-critic": ([*TRAIN, "ppo", "--critic", "separate"], 3),
    "normalised-reward": ([*TRAIN, "rloo", "--reward", "normalise(length:target=3)"], 3),
    "schedule": ([*TRAIN, "a2c", "--learner.lr_decay_updates", "8"], 3),
    "finetune": (
        "finetune --data corpus.jsonl --width 16 --heads 2 --epochs 2 --checkpoint_every 3".split(),
        5,
    ),
    "reward": (
        "reward --data pairs.jsonl --model base --learner.batch_size 8 "
        "--checkpoint_every 2".split(),
        3,
    ),
    "reward-lora": (
        "reward --data pairs.jsonl --model base --lora_rank 2 --learner.evaluate_every 2 "
        "--learner.steps 9 --learner.patience 2 --checkpoint_every 1".split(),
        5,
    ),
    "control-ppo": (
        "control --total_steps 6000 --eval_interval 2000 --eval_episodes 4 "
        "--checkpoint_every 1".split(),
        2,
    ),
    "control-moments": (
        "control --env Pendulum-v1 --total_steps 4000 --eval_interval 2000 --eval_episodes 2 "
        "--checkpoint_every 1".split(),
        2,
    ),
    "control-tuple": (  # observations of several parts
        "control --env Blackjack-v1 --total_steps 1500 --eval_interval 600 --eval_episodes 2 "
        "--environments 4 --checkpoint_every 1".split(),
        2,
    ),
    "control-episodes": (
        "control --algorithm reinforce --total_steps 2000 --eval_episodes 2 --entropy_temperature "
        "0.1 --target_entropy 0.4 --checkpoint_every 1".split(),
        3,
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _in_world(world, monkeypatch):
    monkeypatch.chdir(world)


def stop_after(monkeypatch, iteration):
    """Make every run stop after an iteration, as if a signal had come then."""
    due = checkpoint.Checkpoints.after

    def after(self, now, *arguments):
        self.interrupted = self.interrupted or now == iteration
        due(self, now, *arguments)

    monkeypatch.setattr(checkpoint.Checkpoints, "after", after)


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_resumes_to_the_same_result(name, tmp_path, monkeypatch, capsys):
    arguments, stop = RUNS[name]
    arguments = [*arguments, *(["--iterations", "5"] if arguments[0] == "train" else [])]
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main([*arguments, "--output", str(whole)]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        assert main([*arguments, "--output", str(part)]) == 130
    assert f"resume {part}" in capsys.readouterr().err
    assert content(part) != content(whole)
    assert main(["resume", str(part)]) == 0
    assert content(part) == content(whole)


def test_a_killed_run_repeats_the_iterations_after_its_checkpoint(world, tmp_path):
    """SIGKILL in the middle of an odd iteration: the logs hold more than the checkpoint."""
    arguments = [*TRAIN, "ppo", "--iterations", "7", "--output"]
    assert run(world, *arguments, tmp_path / "whole").returncode == 0
    part = tmp_path / "part"
    code, _ = kill_after(world, part, 3, *arguments, part)
    assert code == -signal.SIGKILL
    resumed = run(world, "resume", part)
    assert resumed.returncode == 0, resumed.stderr
    assert content(part) == content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_iteration_and_says_how_to_resume(number, tmp_path, capsys):
    part = tmp_path / "part"
    before = signal.getsignal(number)
    (tmp_path / "signals.py").write_text(
        "import os\ncalls = []\ndef reward(completions, **columns):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == 3:\n        os.kill({os.getpid()}, {int(number)})\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    words = [*TRAIN, "ppo", "--reward", f"{tmp_path}/signals.py:reward", "--iterations", "6"]
    assert main([*words, "--checkpoint_every", "0", "--output", str(part)]) == 130
    assert f"resume {part}" in capsys.readouterr().err
    assert signal.getsignal(number) == before
    assert len((part / "metrics.jsonl").read_text().splitlines()) == 2
    assert [folder.name for folder in checkpoint.checkpoint_folders(part)] == ["000002"]
    assert main(["sample", str(part), "--prompt", "the", "--max_new_tokens", "6"]) == 0
    assert "unfinished" in capsys.readouterr().out


def test_verify_repeats_an_interval_and_finds_a_difference(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TRAIN, "ppo", "--iterations", "4", "--output", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0
    assert "bit for bit" in capsys.readouterr().out
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    digit = lines[3].replace('"kl_coef": 0.2', '"kl_coef": 0.3')
    assert digit != lines[3]
    (folder / "metrics.jsonl").write_text("\n".join([*lines[:3], digit]) + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(folder)])
    assert ended.value.code == 1 and "metrics.jsonl" in capsys.readouterr().out
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    newest = folder / "checkpoints" / "000004"
    state = load_state(newest)
    name, weight = next(iter(state["parameters"].items()))
    weight.view(-1)[0] += 1e-6
    save_state(newest, state)
    with pytest.raises(SystemExit):
        main(["verify", str(folder)])
    assert f"NOT reproduced: .parameters.{name} differ" in capsys.readouterr().out


def test_a_run_resumes_though_its_model_was_replaced(tmp_path, world, monkeypatch):
    """The run keeps hard links of the model it started from."""
    import shutil

    shutil.copytree(world / "base", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    shutil.copy(world / "prompts.jsonl", tmp_path)
    words = [*TRAIN, "ppo", "--iterations", "4", "--output"]
    assert main([*words, "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main([*words, "part"]) == 130
    shutil.rmtree(tmp_path / "base")
    assert main(["resume", "part"]) == 0
    assert content("part") == content("whole")


def test_other_data_is_refused(tmp_path, world, monkeypatch, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "the"}\n{"prompt": "a"}\n')
    words = [*TRAIN, "ppo", "--data", str(tmp_path / "p.jsonl"), "--iterations", "4", "--output"]
    part = str(tmp_path / "part")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main([*words, part]) == 130
    (tmp_path / "p.jsonl").write_text('{"prompt": "the"}\n{"prompt": "the"}\n')
    assert main(["resume", part]) == 2
    assert "have changed" in capsys.readouterr().err
