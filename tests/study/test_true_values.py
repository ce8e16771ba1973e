"""True values: enumeration against the definition, continuations against enumeration."""

from dataclasses import replace

import pytest
import torch

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.language import models
from rlhf_pg.language.config import TrainConfig
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.loaded import LoadedRun
from rlhf_pg.study import tasks
from rlhf_pg.study.true_values import continued_values, enumerated_values

LENGTH = 3


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The small task, its model saved in `small.folder`."""
    task = tasks.small_task(max_new_tokens=LENGTH)
    task.policy.temperature = task.reference.temperature = 0.9
    task.folder = tmp_path_factory.mktemp("small") / "model"
    models.save(task.folder, task.reference.model, task.tokenizer)
    return task


def opened(small, kl_coef=0.3, bootstrap_truncated=False, **learner):
    """A run on the small task, with its policy, reference and reward in memory."""
    config = TrainConfig(
        model=str(small.folder),
        data="prompts.jsonl",
        max_new_tokens=LENGTH,
        missing_eos_penalty=0.5,
        kl_coef=kl_coef,
        bootstrap_truncated=bootstrap_truncated,
        learner=LearnerConfig(**learner),
    )
    run = LoadedRun(str(small.folder), small.folder, config)
    run.policy, run.reference, run.reward = small.policy, small.reference, small.reward
    return run


def sampled(run, count=40):
    """`count` completions of two prompts: what both functions under test are given."""
    columns = {"prompt": ["film", "not"] * (count // 2)}
    completions = run.complete(columns, torch.Generator().manual_seed(0))
    scores = run.score(completions, columns)
    return completions, run.rollout(completions, scores.shaped)[0], columns


def by_definition(small, prompt, prefix, kl_coef, gamma):
    """E[sum of discounted rewards after the prefix | prefix], completion by completion."""
    done = every_completion(small.policy, small.tokenizer, prompt, LENGTH)
    n, total, mass = len(prefix), 0.0, 0.0
    logps = [token_logprobs(p, done) for p in (small.policy, small.reference)]
    scores = torch.tensor(small.reward(completions=done.texts)) - 0.5 * (~done.finished)
    for i, (row, mask) in enumerate(zip(done.ids.tolist(), done.mask, strict=True)):
        length = int(mask.sum())
        if tuple(row[:n]) != prefix or length <= n:
            continue
        p = float(logps[0][i, :length].sum().exp())
        kl = (logps[0] - logps[1])[i]
        penalty = sum(kl_coef * float(kl[t]) * gamma ** (t - n) for t in range(n, length))
        total += p * (float(scores[i]) * gamma ** (length - 1 - n) - penalty)
        mass += p
    return total / mass


def token_logprobs(policy, done):
    ids = torch.cat([done.prompt_ids, done.ids], 1)
    with torch.no_grad():
        logits = policy.model(ids).logits[:, done.prompt_ids.shape[1] - 1 : -1]
    logp = (logits / policy.temperature).log_softmax(-1).double()
    return logp.gather(-1, done.ids[..., None])[..., 0]


@pytest.mark.parametrize(
    ("kl_in", "gamma", "bootstrap"),
    [("reward", 1.0, False), ("reward", 0.9, False), ("loss", 1.0, False), ("reward", 1.0, True)],
)
def test_enumerated_values_equal_their_definition(small, kl_in, gamma, bootstrap):
    run = opened(small, 0.3, bootstrap, kl_in=kl_in, gamma=gamma)
    completions, rollout, columns = sampled(run, count=6)
    true = enumerated_values(run, completions, rollout, columns)
    assert true.exact and not true.value_errors.any() and not true.advantage_errors.any()
    kl_coef = 0.3 if kl_in == "reward" else 0.0
    for i, prompt in enumerate(columns["prompt"]):
        tokens = tuple(completions.ids[i][completions.mask[i]].tolist())
        values = [by_definition(small, prompt, tokens[:t], kl_coef, gamma)
                  for t in range(len(tokens))]  # fmt: skip
        assert true.values[i, : len(tokens)].tolist() == pytest.approx(values, abs=1e-5)
        after = torch.tensor([*values[1:], 0.0])  # nothing is left after the last token
        expected = rollout.rewards[i, : len(tokens)] + gamma * after - torch.tensor(values)
        torch.testing.assert_close(true.advantages[i, : len(tokens)].float(), expected, atol=1e-5,
                                   rtol=0)  # fmt: skip
        assert not true.advantages[i, len(tokens) :].any()


def test_true_advantages_average_to_zero_over_the_next_token(small):
    """sum_a pi(a|s) A(s, a) = 0: at the first state, over every first token."""
    run = opened(small)
    done = every_completion(small.policy, small.tokenizer, small.prompt, LENGTH)
    logp = token_logprobs(small.policy, done).float()
    done = replace(done, logprobs=torch.where(done.mask, logp, 0.0))
    columns = {"prompt": [small.prompt] * len(done.texts)}
    rollout = run.rollout(done, run.score(done, columns).shaped)[0]
    true = enumerated_values(run, done, rollout, columns)
    first = {int(ids[0]): i for i, ids in enumerate(done.ids)}
    assert len(first) == 8
    weights = logp[list(first.values()), 0].exp()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    advantages = true.advantages[list(first.values()), 0]
    assert float((weights * advantages).sum()) == pytest.approx(0, abs=1e-5)
    assert advantages.abs().max() > 0.1


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_continuations_agree_with_enumeration_within_their_errors(small, gamma):
    run = opened(small, gamma=gamma)
    completions, rollout, columns = sampled(run)
    exact = enumerated_values(run, completions, rollout, columns)
    counts = []
    generator = torch.Generator().manual_seed(1)
    true = continued_values(
        run, completions, rollout, columns, 100, generator, progress=counts.append
    )
    mask = completions.mask
    assert not true.exact and counts[-1] == int(mask.sum())
    for estimate, errors, expected in (
        (true.values, true.value_errors, exact.values),
        (true.advantages, true.advantage_errors, exact.advantages),
    ):
        assert not estimate[~mask].any() and not errors[~mask].any()
        z = ((estimate - expected) / errors.clamp(min=1e-3))[mask]
        assert 0.7 < float(z.square().mean()) < 1.4  # the errors have the size they claim
        assert abs(float(z.mean())) < 4 / len(z) ** 0.5 * 2  # neighbours share values
        assert float(errors[mask].mean()) > 0.02
    # Independent continuations on both sides of a token: variances add.
    here, after = true.value_errors[:, :-1], true.value_errors[:, 1:]
    expected = (here**2 + gamma**2 * after**2).sqrt() * mask[:, :-1]
    torch.testing.assert_close(true.advantage_errors[:, :-1], expected)


def test_the_size_of_a_batch_does_not_matter(small, monkeypatch):
    """Prefixes of one length are continued in several batches if they are many."""
    run = opened(small)
    completions, rollout, columns = sampled(run)
    exact = enumerated_values(run, completions, rollout, columns)
    monkeypatch.setattr("rlhf_pg.study.true_values.ROWS", 250)
    generator = torch.Generator().manual_seed(2)
    true = continued_values(run, completions, rollout, columns, 100, generator)
    z = ((true.values - exact.values) / true.value_errors.clamp(min=1e-3))[completions.mask]
    assert 0.7 < float(z.square().mean()) < 1.4


def test_continuations_are_not_scored_by_the_gold(small):
    def gold(completions, **_):
        raise AssertionError

    run = opened(small, 0.0)
    completions, rollout, columns = sampled(run, count=2)
    run.gold = gold
    continued_values(run, completions, rollout, columns, 2, torch.Generator())
    enumerated_values(run, completions, rollout, columns)


def test_one_continuation_has_no_standard_error(small):
    run = opened(small, 0.0)
    completions, rollout, columns = sampled(run, count=2)
    with pytest.raises(ValueError, match="at least 2 continuations, not 1"):
        continued_values(run, completions, rollout, columns, 1, torch.Generator())
