"""A run opened again: its policy, critic and reference, and sampling and scoring through it."""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from rlhf_pg import trust
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.returns import gae
from rlhf_pg.language import models
from rlhf_pg.language.config import preset
from rlhf_pg.language.loaded import LoadedRun, open_model, open_run
from rlhf_pg.language.train import train
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, TEXTS, alone, count_good, tiny_lm, write_rows


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """Trains a small run on request; those of equal options are trained once."""
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    tokenizer = models.train_tokenizer(TEXTS, "word")
    models.save(folder / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    made = {}

    def trained_run(algorithm="a2c", **changes):
        key = (algorithm, *sorted(changes.items()))
        if key not in made:
            config = preset(algorithm)
            config.model, config.data = str(folder / "base"), prompts
            config.output = str(folder / f"run-{len(made)}")
            config.iterations, config.rows, config.max_new_tokens, config.device = 3, 8, 6, "cpu"
            config.reward, config.temperature, config.samples_kept = "length:target=4", 0.8, 0
            config.learner.lr = 1e-2
            for name, value in changes.items():
                setattr(config, name, value)
            made[key] = train(config).path
        return made[key]

    return trained_run


@pytest.fixture
def copied_run(trained_run, tmp_path):
    """A run that the test may damage; it started from tmp_path/base."""

    def copied_run(**changes):
        path = trained_run(**changes)
        shutil.copytree(path, tmp_path / "run")
        shutil.copytree(path.parent / "base", tmp_path / "base")
        options = yaml.safe_load((path / "config.yaml").read_text())
        options["model"] = str(tmp_path / "base")
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(options))
        trust.sign(tmp_path / "run")
        return tmp_path / "run"

    return copied_run


@pytest.fixture
def run(trained_run):
    return open_run(str(trained_run()))


# What is opened


@pytest.mark.parametrize("critic", ["shared", "detached", "separate"])
def test_policy_critic_and_reference_come_back(trained_run, critic):
    path = trained_run(critic=critic)
    run = open_run(str(path))
    assert run.policy.critic == critic and run.policy.temperature == 0.8
    completions = run.complete(run.prompts, torch.Generator().manual_seed(0))
    scores = run.score(completions, run.prompts)
    rollout, ref_logprobs = run.rollout(completions, scores.shaped)
    assert rollout.values.abs().max() > 1e-3  # the critic has learned something
    assert (completions.logprobs - ref_logprobs)[completions.mask].abs().max() > 1e-3
    state = run.policy.model.state_dict()
    for name, tensor in load_file(path / "policy" / "model.safetensors").items():
        assert torch.equal(state[name], tensor)
    origin = load_file(path.parent / "base" / "model.safetensors")
    state = run.reference.model.state_dict()
    assert all(torch.equal(state[name], x) for name, x in origin.items())
    assert not any(p.requires_grad for p in run.reference.parameters())


def test_the_reference_has_the_runs_temperature(trained_run):
    """So the KL of an untrained policy is 0, as it was in training."""
    path = trained_run()
    base = str(path.parent / "base")
    config = replace(open_run(str(path)).config, model=base, temperature=0.5)
    run = LoadedRun(base, path, config, trust=True)
    completions = run.sample(PROMPTS, n=2)
    ref_logprobs = run.rollout(completions, torch.zeros(len(completions.texts)))[1]
    real = completions.mask
    assert_close(ref_logprobs[real], completions.logprobs[real], atol=1e-5, rtol=0)


def test_a_run_opens_by_the_model_inside_it(trained_run):
    path = trained_run()
    for open_it in (open_run, open_model):
        assert open_it(str(path / "policy")).path == open_it(str(path)).path == path


def test_options_replace_those_of_the_run(trained_run):
    run = open_run(str(trained_run()), max_new_tokens=3, reference=None)
    assert run.config.max_new_tokens == 3 and run.config.temperature == 0.8


def test_an_adaptive_coefficient_is_the_last_one(trained_run):
    path = trained_run(kl_target=0.001, kl_horizon=20.0)
    last = read_jsonl(path / "metrics.jsonl")[-1]["kl_coef"]
    assert open_run(str(path)).kl_coef == last != 0.2
    assert open_run(str(trained_run())).kl_coef == 0.2
    run = open_run(str(path))
    completions = run.sample(PROMPTS, n=2)
    rollout, ref_logprobs = run.rollout(completions, torch.zeros(len(completions.texts)))
    k1 = torch.where(completions.mask, completions.logprobs - ref_logprobs, 0)
    assert_close(rollout.rewards, -last * k1)


def test_a_run_scores_as_it_trained(trained_run):
    path = trained_run(score_clip=1.0, missing_eos_penalty=0.5, gold="missing-eos")
    run = open_run(str(path))
    completions = run.sample(PROMPTS, n=4)
    scores = run.score(completions, {"prompt": completions.prompts})
    cut = (~completions.finished).float()
    assert_close(scores.shaped, scores.scores.clamp(-1, 1) - 0.5 * cut)
    assert_close(scores.gold, -cut) and cut.any()
    assert run.score(completions, {"prompt": completions.prompts}, with_gold=False).gold is None


def test_a_model_that_is_no_run_needs_a_reward(base):
    with pytest.raises(ValueError, match="give --reward"):
        open_run(base)
    with pytest.raises(ValueError, match="no run at nowhere; `rlhf-pg train` makes runs"):
        open_run("nowhere")
    run = open_run(base, reward="length")
    assert run.policy.critic == "none" and run.prompts["prompt"]
    own = open_model(base).sample("the film", max_new_tokens=4)
    assert own.texts == run.sample("the film", max_new_tokens=4).texts


def test_options_of_another_version_are_named(copied_run):
    path = copied_run()
    options = yaml.safe_load((path / "config.yaml").read_text())
    options["learner"]["momentum"] = 1
    (path / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(ValueError, match="config.yaml has options unknown .*: momentum"):
        open_run(str(path))


def test_a_run_whose_initial_model_is_gone_says_where_to_look(copied_run):
    path = copied_run()
    shutil.rmtree(path.parent / "base")
    assert open_run(str(path)).reference  # the run keeps it
    shutil.rmtree(path / "initial")  # runs of earlier versions do not
    run = open_run(str(path))
    assert run.sample("the film").texts  # the policy itself needs no reference
    with pytest.raises(ValueError, match="start from the folder it was trained in"):
        run.reference  # noqa: B018


def test_a_critic_that_is_missing_is_an_error(copied_run):
    path = copied_run(critic="separate")
    (path / "policy" / "critic" / "value_head.safetensors").unlink()
    with pytest.raises(ValueError, match="no critic in .*value_head.safetensors is missing"):
        open_run(str(path))


# sample


def test_samples_are_rows_in_the_order_of_the_prompts(run):
    completions = run.sample(["the film", "the"], n=3)
    assert completions.prompts == ["the film"] * 3 + ["the"] * 3
    assert completions.ids.shape == completions.logprobs.shape == completions.mask.shape
    assert completions.ids.shape[1] <= 6 and len(completions.texts) == 6
    one = run.sample("the film", max_new_tokens=2)
    assert one.prompts == ["the film"] and one.ids.shape[1] <= 2


def test_samples_are_those_of_their_seed(run):
    first, again, other = (run.sample(PROMPTS, n=4, seed=seed).texts for seed in (1, 1, 2))
    assert first == again != other


def test_a_temperature_holds_for_one_call(run):
    plain = run.sample(PROMPTS, n=4)
    cold = run.sample(PROMPTS, n=4, temperature=0.05)
    assert cold.logprobs.sum() > plain.logprobs.sum() / 2 and run.policy.temperature == 0.8
    assert run.sample(PROMPTS, n=4).texts == plain.texts
    logprobs, tokens, _ = alone(run.policy, plain, 0)  # at the run's temperature
    own = logprobs.gather(1, tokens[:, None])[:, 0]
    assert_close(plain.logprobs[0][plain.mask[0]], own, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 500}, "more than the model's context"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0"),
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"prompts": []}, "prompts must be at least 1, not 0"),
        ({"prompts": ["the", ""]}, "prompt 1 has no tokens"),
    ],
)
def test_what_cannot_be_sampled_is_named(run, options, message):
    with pytest.raises(ValueError, match=message):
        run.sample(**({"prompts": "the film"} | options))


# logprobs


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_logprobs_are_the_sampled_ones(trained_run, critic):
    run = open_run(str(trained_run(critic=critic)))
    completions = run.sample(PROMPTS, n=6)
    actual = run.logprobs(completions)
    assert actual.shape == completions.mask.shape and not actual.requires_grad
    assert_close(actual, completions.logprobs, atol=1e-5, rtol=0)
    assert not actual[~completions.mask].any() and (~completions.mask).any()


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_text_has_the_numbers_of_sampling_that_text(trained_run, critic):
    """Tokenised, with EOS appended; texts of special tokens alone have no such text."""
    run = open_run(str(trained_run(critic=critic)))
    sampled = run.sample(PROMPTS, n=30, max_new_tokens=8, seed=3)
    special = set(run.tokenizer.all_special_ids)
    rows = [
        row
        for row in range(len(sampled.texts))
        if sampled.finished[row]
        and not special & set(sampled.ids[row][sampled.mask[row]][:-1].tolist())
    ]
    assert len({int(sampled.mask[row].sum()) for row in rows}) >= 4
    prompts = [sampled.prompts[row] for row in rows]
    texts = [sampled.texts[row] for row in rows]
    given = run.completions(prompts, texts)
    assert given.finished.all() and given.texts == texts and given.prompts == prompts
    assert torch.equal(given.logprobs, run.logprobs(prompts, texts))
    for i, row in enumerate(rows):
        real, same = sampled.mask[row], given.mask[i]
        assert torch.equal(given.ids[i][same], sampled.ids[row][real])
        close = {"atol": 1e-5, "rtol": 1e-5}
        assert_close(given.logprobs[i][same], sampled.logprobs[row][real], **close)
        assert_close(given.values[i, :-1][same], sampled.values[row, :-1][real], **close)
    assert not given.logprobs[~given.mask].any()


def test_texts_must_match_their_prompts(run):
    with pytest.raises(ValueError, match="as many texts"):
        run.logprobs(["the film", "the"], [" is good"])
    with pytest.raises(ValueError, match="as many texts"):
        run.logprobs("the film", " is good")
    with pytest.raises(ValueError, match="as many texts"):
        run.logprobs([], [])
    with pytest.raises(ValueError, match="give completions, or prompts and texts"):
        run.logprobs(["the film"])
    with pytest.raises(ValueError, match="tokens of 'the fil' change .* between two words"):
        run.logprobs(["the fil"], ["m is good"])
    with pytest.raises(ValueError, match="prompt 0 has no tokens"):
        run.logprobs([""], ["the film"])
    with pytest.raises(ValueError, match="49 tokens with EOS, more than the model's context of 48"):
        run.logprobs(["the"] * 2, [" is good", " film" * 47])
    assert run.logprobs(["the"], [" film" * 46]).shape == (1, 47)


# advantages


def test_advantages_with_a_critic_are_gae_of_the_rewards_and_values(run):
    completions = run.sample(PROMPTS, n=4)
    scores = torch.linspace(-1, 1, len(completions.texts))
    actual = run.advantages(completions, scores)
    ref_logprobs = run.rollout(completions, scores)[1]
    for row in range(len(completions.texts)):
        real = completions.mask[row]
        length = int(real.sum())
        kl = (completions.logprobs - ref_logprobs)[row][real]
        rewards = -0.2 * kl
        rewards[-1] += scores[row]
        values = completions.values[row][:length]
        after = torch.cat([values[1:], torch.zeros(1)])  # a completion cut at the limit is terminal
        ends = torch.nn.functional.one_hot(torch.tensor(length - 1), length).float()
        expected = gae(rewards[None], values[None], after[None], ends[None], 1.0, 0.95)[0]
        assert_close(actual[row][real], expected, atol=1e-6, rtol=0)
    assert actual.shape == completions.mask.shape and not actual[~completions.mask].any()


def test_advantages_without_a_critic_are_the_rewards_to_go(base):
    """A model that is no run is its own reference, so its KL is 0."""
    run = open_model(base)
    completions = run.sample(PROMPTS, n=2, max_new_tokens=5)
    scores = [float(i) for i in range(len(completions.texts))]
    actual = run.advantages(completions, scores)
    expected = torch.tensor(scores)[:, None] * completions.mask
    assert_close(actual, expected, atol=1e-5, rtol=0)


def test_advantages_of_a_baseline_that_compares_samples(trained_run):
    """By hand: each score less the mean of the other three of its prompt."""
    run = open_run(str(trained_run("rloo", kl_coef=0.0)))
    completions = run.sample(["the film", "the"], n=4)
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0, 0.0, 0.0, 0.0, 4.0])
    expected = torch.tensor([-8 / 3, -4 / 3, 0, 4, -4 / 3, -4 / 3, -4 / 3, 4])
    actual = run.advantages(completions, scores)
    assert_close(actual, expected[:, None] * completions.mask, atol=1e-5, rtol=0)


def test_advantages_are_those_before_whitening(trained_run):
    run = open_run(str(trained_run("ppo")))
    assert run.config.learner.whiten_advantages
    completions = run.sample(PROMPTS)
    scores = torch.arange(5.0)
    rollout, _ = run.rollout(completions, scores)
    expected, _ = estimate_advantages(rollout, LearnerConfig(lam=0.95))
    assert torch.equal(run.advantages(completions, scores), expected)


def test_as_many_scores_as_completions_are_needed(run):
    completions = run.sample(PROMPTS)
    with pytest.raises(ValueError, match=r"scores is \(3,\), but there are 5 completions"):
        run.advantages(completions, [1.0, 2.0, 3.0])


def test_advantages_of_texts(run):
    """Texts given by the user have values too."""
    completions = run.completions(["the film", "the"], [" is good .", " plot is clear ."])
    scores = count_good(completions.texts)
    assert run.advantages(completions, scores).shape == completions.mask.shape == (2, 5)
