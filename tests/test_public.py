"""`import rlhf_pg`: its names, loading runs and models, training with Python functions, README."""

import re
from pathlib import Path

import gymnasium
import pytest
import torch
import yaml

import rlhf_pg
from rlhf_pg.cli import main
from rlhf_pg.core.gradients import policy_gradient
from rlhf_pg.language import data, models
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, count_good, tiny_lm, write_rows

README = Path(__file__).parents[1] / "README.md"


def test_every_name_is_there_with_a_docstring():
    assert len(rlhf_pg.__all__) == 10 and set(rlhf_pg.__all__) <= set(dir(rlhf_pg))
    for name in rlhf_pg.__all__:
        assert getattr(rlhf_pg, name).__doc__, name
        assert name in rlhf_pg.__doc__, name
    with pytest.raises(AttributeError, match="module 'rlhf_pg' has no attribute 'lode'"):
        rlhf_pg.lode  # noqa: B018


@pytest.fixture
def config(base, tmp_path):
    rows = [{"prompt": prompt, "answer": i} for i, prompt in enumerate(PROMPTS)]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    options = {"rows": 8, "iterations": 2, "max_new_tokens": 5, "device": "cpu"}
    return rlhf_pg.TrainConfig(
        algorithm="rloo", model=base, data=prompts, output=str(tmp_path / "run"), **options
    )


def test_training_with_functions_in_place_of_the_configs_rewards(config):
    called = []

    def answers(completions, answer, **_):
        called.append(answer)
        return [float(x) for x in answer]

    run = rlhf_pg.train(config, reward=answers, gold=count_good)
    assert called and "answers" in yaml.safe_load((run.path / "config.yaml").read_text())["reward"]
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert all({"score", "gold", "kl"} <= set(line) for line in lines) and len(lines) == 2
    assert lines[0]["score"] == sum(called[1]) / 8  # called[0]: the fixed prompts


def test_a_spelling_may_stand_in_place_of_a_function(config):
    config.iterations = 1
    run = rlhf_pg.train(config, reward="length:target=3", gold="missing-eos")
    (line,) = read_jsonl(run.path / "metrics.jsonl")
    assert line["gold"] == pytest.approx(line["eos_rate"] - 1)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_run_is_loaded_by_its_folder(config, kind):
    run = rlhf_pg.train(config, reward=count_good)
    policy = rlhf_pg.load(kind(run.path))
    completions = policy.sample("the film", n=4)
    assert policy.advantages(completions, count_good(completions.texts)).shape[0] == 4
    assert policy.config.learner.baseline == "leave-one-out"


def test_a_model_is_loaded_by_its_folder(base):
    policy = rlhf_pg.load(base)
    completions = policy.sample(["the film"], max_new_tokens=4)
    torch.testing.assert_close(policy.logprobs(completions), completions.logprobs)
    with pytest.raises(ValueError, match="no model at 'no/model/there'"):
        rlhf_pg.load("no/model/there")


def test_a_control_run_is_loaded_and_acts(tmp_path):
    output = str(tmp_path / "run")
    words = "control --env CartPole-v1 --algorithm a2c --total_steps 200 --environments 2"
    assert main([*words.split(), "--output", output]) == 0
    agent, environment = rlhf_pg.load(output), gymnasium.make("CartPole-v1")
    observation, _ = environment.reset(seed=0)
    for _ in range(5):
        action = agent.act(observation)
        assert environment.action_space.contains(action)
        observation, *_ = environment.step(action)


def test_the_parts_of_the_learner_fit_together():
    """A bandit with two arms: the better one becomes likelier."""

    class Bandit(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(2))

        def evaluate(self, rollout):
            logprobs = self.logits.log_softmax(0)
            entropy = -(logprobs.exp() * logprobs).sum()
            chosen = logprobs[rollout.actions]
            return rlhf_pg.Evaluation(chosen, entropy.expand_as(chosen))

    policy, arms = Bandit(), torch.tensor([[0], [1], [1], [0]])
    zeros, ones = torch.zeros(4, 1), torch.ones(4, 1)
    rollout = rlhf_pg.Rollout(
        inputs=arms,
        actions=arms,
        logprobs=torch.full((4, 1), 0.5).log(),
        values=zeros,
        next_values=zeros,
        rewards=arms.float(),
        ends=ones,
        mask=ones,
    )
    config = rlhf_pg.algorithm("reinforce", lr=0.1)
    assert isinstance(config, rlhf_pg.LearnerConfig)
    advantages, targets = rlhf_pg.estimate_advantages(rollout, config)
    assert torch.equal(advantages, arms.float()) and targets.shape == (4, 1)
    gradient = policy_gradient(policy, rollout, config, [policy.logits])
    torch.testing.assert_close(gradient, torch.tensor([-0.25, 0.25]))
    metrics = rlhf_pg.Learner(policy, config).update(rollout)
    assert metrics["grad_norm"] > 0 and policy.logits[1] > policy.logits[0]


def test_readmes_python_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """In a folder with the demo's base model; here an untrained one, of the same vocabulary."""
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "from rlhf_pg import" in block and "load(" in block
    ]
    monkeypatch.chdir(tmp_path)
    rows = data.read("film-notes", "corpus")["text"][:2000]
    tokenizer = models.train_tokenizer(rows, "word")
    folder = Path("runs/demo/base/policy")
    models.save(folder, tiny_lm("llama", tokenizer, context=128, spread=0.1), tokenizer)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
