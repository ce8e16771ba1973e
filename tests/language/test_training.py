"""The RLHF loop: what it is paid for, what it logs, and that it learns."""

import json

import pytest
import torch
import yaml
from rlhf_pg.language.prompts import check_prompt_lengths, prompt_batches
from rlhf_pg.language.settings import TrainConfig, preset
from rlhf_pg.language.training import Loop, train

from rlhf_pg.core.algorithms import ALGORITHMS
from rlhf_pg.language import models
from rlhf_pg.runs import METRICS, read_jsonl

from .conftest import PROMPTS, tiny_lm

EVERY = list(ALGORITHMS)


def likes_good(completions, **columns):
    """One for each "good", up to three."""
    return [min(3.0, text.split().count("good")) for text in completions]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": p, "answer": str(i)} for i, p in enumerate(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def asked(base, prompts, tmp_path):
    """A named algorithm's settings for a very small run."""

    def settings(name="ppo", **changes):
        config = preset(name)
        config.model, config.data, config.output = base, prompts, str(tmp_path / "run")
        config.iterations, config.rows, config.max_new_tokens, config.device = 2, 8, 6, "cpu"
        for key, value in changes.items():
            target = config.learner if key.startswith("learner_") else config
            key = key.removeprefix("learner_")
            assert hasattr(target, key)
            setattr(target, key, value)
        return config

    return settings


@pytest.mark.parametrize("name", EVERY)
def test_every_algorithm_runs_and_logs_what_is_documented(asked, name):
    config = asked(name, temperature=0.7)  # of the reference too, or the first KL is not 0
    run = train(config, likes_good, gold=lambda completions, **_: [1.0] * len(completions))
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [1, 2]
    assert set().union(*lines) <= set(METRICS)
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines)
    assert lines[0]["first_ratio_drift"] < 1e-5 and abs(lines[0]["kl"]) < 1e-4
    assert lines[0]["gold"] == 1.0 and lines[0]["grad_norm"] > 0
    assert yaml.safe_load((run.path / "config.yaml").read_text())["algorithm"] == name
    models.load(str(run.path))
    assert (run.path / "policy" / "value_head.safetensors").exists() == (
        preset(name).critic == "shared"
    )


@pytest.mark.parametrize("name", ["reinforce-baseline", "rloo", "ppo"])
def test_it_learns_to_say_what_is_rewarded(asked, name):
    config = asked(name, iterations=30, rows=64, kl_coef=0.01, learner_lr=1e-2)
    run = train(config, likes_good)
    scores = [line["score"] for line in read_jsonl(run.path / "metrics.jsonl")]
    assert scores[0] < 0.6 and sum(scores[-3:]) / 3 > 1.5


def loop_of(config, tokenizer, reward, kind="llama"):
    """The loop around a model in memory."""
    from accelerate import Accelerator

    from rlhf_pg.language.policy import LanguagePolicy

    model, origin = (tiny_lm(kind, tokenizer, spread=0.1) for _ in range(2))
    policy = LanguagePolicy(model, config.temperature, config.critic)
    reference = LanguagePolicy(origin, config.temperature, "none").requires_grad_(False)
    rows = {"prompt": PROMPTS, "answer": [str(i) for i in range(len(PROMPTS))]}
    return Loop(config, policy, reference, tokenizer, rows, reward, None, Accelerator(cpu=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gpt-neox"])
def test_one_update_makes_a_rewarded_first_token_likelier(tokenizer, kind):
    config = preset("rloo")
    config.rows, config.max_new_tokens, config.missing_eos_penalty = 64, 1, 0.0
    good = tokenizer.convert_tokens_to_ids("good")

    def first_is_good(completions, **_):
        return [float(text.strip() == "good") for text in completions]

    loop = loop_of(config, tokenizer, first_is_good, kind)

    def chance():
        ids = torch.tensor(models.encode(tokenizer, ["the film"]))
        with torch.no_grad():
            return float(loop.policy.model(ids).logits[0, -1].softmax(-1)[good])

    before = chance()
    metrics, _ = loop.step()
    assert metrics["score"] > 0 and chance() > before


def test_columns_and_finished_reach_the_reward(tokenizer):
    seen = []

    def reward(prompts, completions, finished, answer):
        seen.append((prompts, finished, answer))
        return [0.0] * len(completions)

    config = preset("rloo")
    config.rows, config.samples_per_prompt, config.max_new_tokens = 8, 4, 4
    loop_of(config, tokenizer, reward).step()
    ((prompts, finished, answer),) = seen
    assert prompts == [p for p in (prompts[0], prompts[4]) for _ in range(4)]  # groups are adjacent
    assert answer == [str(PROMPTS.index(p)) for p in prompts]
    assert len(finished) == 8 and all(isinstance(f, bool) for f in finished)


def test_a_cut_completion_pays_and_a_finished_one_does_not(tokenizer):
    config = preset("reinforce")
    config.score_clip, config.missing_eos_penalty = 1.0, 0.25
    loop = loop_of(config, tokenizer, likes_good)

    finished = torch.tensor([True, False, True, False])
    scores = torch.tensor([0.5, 0.5, 7.0, -7.0])
    assert loop.task.paid(scores, finished).tolist() == [0.5, 0.25, 1.0, -1.25]


def test_the_policy_is_paid_after_clip_and_penalty(tokenizer):
    config = preset("reinforce")
    config.rows, config.max_new_tokens, config.score_clip = 32, 4, 1.5
    loop = loop_of(config, tokenizer, lambda completions, **_: [2.0] * len(completions))
    seen = []
    loop.learner.update = lambda rollout: seen.append(rollout) or {}
    metrics, samples = loop.step()
    rewards = (seen[0].rewards * seen[0].mask).sum(1)  # the KL of the first rollout is 0
    finished = seen[0].actions.eq(tokenizer.eos_token_id).any(1)
    assert 0 < finished.sum() < 32 and metrics["eos_rate"] == float(finished.float().mean())
    torch.testing.assert_close(rewards, 1.5 - 1.0 * (~finished).float(), atol=1e-5, rtol=0)


def test_what_is_logged_is_the_mean_of_what_is_kept(tokenizer):
    config = preset("reinforce")
    config.rows, config.max_new_tokens, config.samples_kept = 16, 4, 16
    config.learner.lr = 1e-2
    loop = loop_of(config, tokenizer, likes_good)
    loop.step()
    metrics, rows = loop.step()
    assert len(rows) == 16 and metrics["kl"] > 0.01
    for name in ("score", "kl", "length"):
        mean = sum(row[name] for row in rows) / 16
        assert metrics[name] == pytest.approx(mean, abs=1e-3), name


def test_the_objective_is_what_the_policy_is_paid(tokenizer):
    config = preset("reinforce")
    config.rows, config.max_new_tokens, config.kl_coef = 16, 3, 0.5
    loop = loop_of(config, tokenizer, lambda completions, **_: [2.0] * len(completions))
    loop.step()
    metrics, _ = loop.step()
    paid = 2.0 - (1 - metrics["eos_rate"]) * config.missing_eos_penalty
    assert metrics["score"] == 2.0 and metrics["score_std"] == 0 and metrics["kl"] != 0
    assert metrics["objective"] == pytest.approx(paid - 0.5 * metrics["kl"])


def test_parts_of_a_reward_are_logged_by_name_where_they_apply(tokenizer):
    class Composed:
        def with_parts(self, completions, **_):
            ones = [1.0] * len(completions)
            some = [None, 3.0] + [None] * (len(ones) - 2)
            return ones, {"all": ones, "some": some, "none": [None] * len(ones)}

    config = preset("reinforce")
    config.rows, config.max_new_tokens = 8, 3
    metrics, _ = loop_of(config, tokenizer, Composed()).step()
    parts = {name: x for name, x in metrics.items() if name.startswith("reward/")}
    assert parts == {"reward/all": 1.0, "reward/some": 3.0}


def test_an_adaptive_coefficient_moves_as_the_paper_says(tokenizer):
    config = preset("reinforce")
    config.rows, config.max_new_tokens = 16, 4
    config.kl_coef, config.kl_target, config.kl_horizon = 0.2, 2.0, 100
    loop = loop_of(config, tokenizer, likes_good)
    first, _ = loop.step()
    second, _ = loop.step()
    error = min(max(first["kl"] / 2.0 - 1, -0.2), 0.2)
    assert first["kl_coef"] == 0.2
    assert second["kl_coef"] == pytest.approx(0.2 * (1 + error * 16 / 100))


def test_the_same_seed_is_the_same_run_bit_for_bit(asked, tmp_path):
    def numbers(name, seed):
        config = asked("ppo", output=str(tmp_path / name), seed=seed)
        run = train(config, likes_good)
        lines = read_jsonl(run.path / "metrics.jsonl")
        for line in lines:
            del line["seconds"], line["tokens_per_second"]
        weights = (run.path / "policy" / "model.safetensors").read_bytes()
        return lines, weights, (run.path / "samples.jsonl").read_text()

    first, again, other = (numbers(name, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


def test_the_seed_reaches_the_order_of_minibatches(tokenizer):
    orders = []
    for seed in (0, 1):
        config = preset("ppo")
        config.seed = seed
        learner = loop_of(config, tokenizer, likes_good).learner
        orders.append(torch.cat(list(learner._minibatches(16))).tolist())
    assert orders[0] != orders[1]


def test_the_reference_may_be_another_model(asked, tokenizer, tmp_path):
    other = tiny_lm("llama", tokenizer, spread=0.1, seed=7)
    models.save(tmp_path / "other", other, tokenizer)
    run = train(asked("reinforce", reference=str(tmp_path / "other")), likes_good)
    assert read_jsonl(run.path / "metrics.jsonl")[0]["kl"] > 0.01


def test_samples_are_kept_now_and_then(asked):
    run = train(asked("reinforce", iterations=5, samples_every=2, samples_kept=3), likes_good)
    rows = read_jsonl(run.path / "samples.jsonl")
    assert [row["iteration"] for row in rows] == [1] * 3 + [2] * 3 + [4] * 3
    names = {"iteration", "prompt", "completion", "score", "kl", "length", "finished"}
    assert set(rows[0]) == names


def batches(count, rank=0, processes=1, **changes):
    config = TrainConfig(rows=8, samples_per_prompt=2, **changes)
    rows = {"prompt": [f"p{i}" for i in range(10)], "answer": list(range(10))}
    stream = prompt_batches(rows, config, rank, processes)
    return [next(stream) for _ in range(count)]


def test_all_prompts_are_asked_before_any_is_asked_again():
    asked = [p for batch in batches(5) for p in batch["prompt"][::2]]
    assert len(asked) == 20 and len(set(asked[:10])) == len(set(asked[10:])) == 10
    assert asked[:10] != asked[10:]


def test_samples_of_a_prompt_are_neighbours_and_keep_their_columns():
    for batch in batches(3):
        assert len(batch["prompt"]) == 8 and batch["prompt"][::2] == batch["prompt"][1::2]
        assert batch["prompt"] == [f"p{answer}" for answer in batch["answer"]]


def test_processes_share_a_batch_and_no_prompt_twice():
    whole = batches(5)
    parts = [batches(5, rank, 2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert first["prompt"] + second["prompt"] == batch["prompt"]
        assert len(first["prompt"]) == len(second["prompt"]) == 4


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rloo", {"rows": 6}, r"rows \(6\) must be a multiple of samples_per_prompt \(4\)"),
        ("rloo", {"samples_per_prompt": 1}, "set --samples_per_prompt to 2 or more"),
        ("ppo", {"critic": "none"}, '"critic" needs a critic: set --critic shared'),
        ("ppo", {"rows": 0}, "rows must be at least 1, not 0"),
        ("ppo", {"algorithm": "pppo"}, "unknown algorithm 'pppo'.*did you mean 'ppo'"),
        ("ppo", {"temperature": 0.0}, "temperature must be above 0"),
        ("ppo", {"kl_coef": 0.0, "kl_target": 6.0}, "AdaptiveKL needs coef"),
        ("ppo", {"max_new_tokens": 48}, "more than the model's context of 48. Shorten"),
        ("ppo", {"model": "/nowhere/at/all"}, "no model at '/nowhere/at/all'"),
        ("ppo", {"data": "nowhere.jsonl"}, "no file at nowhere.jsonl"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(asked, name, changes, message):
    config = asked(name, **changes)
    with pytest.raises(ValueError, match=message):
        train(config, likes_good)
    assert not (models.Path(config.output)).exists()


@pytest.mark.parametrize("answer", [[float("nan")] * 8, [0.0] * 7])
def test_a_reward_that_fails_leaves_no_policy(asked, answer):
    config = asked()
    with pytest.raises((ValueError, FloatingPointError), match="the reward"):
        train(config, lambda **_: answer)
    assert sorted(p.name for p in models.Path(config.output).iterdir()) == ["config.yaml"]
    with pytest.raises(ValueError, match="no causal language model"):
        models.load(config.output)


def test_prompts_that_just_fit_are_taken(tokenizer, llama):
    prompts = ["the film is"]
    check_prompt_lengths(llama, tokenizer, prompts, 45)
    with pytest.raises(ValueError, match="prompt 0 has 3 tokens"):
        check_prompt_lengths(llama, tokenizer, prompts, 46)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        check_prompt_lengths(llama, tokenizer, ["the", ""], 4)
