"""True values: enumeration against the definition, continuation against enumeration."""

from dataclasses import replace

import pytest
import torch
from rlhf_pg.language.answers import Task
from rlhf_pg.language.settings import TrainConfig

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.study import tasks
from rlhf_pg.study.truth import by_continuation, by_enumeration


@pytest.fixture
def small():
    task = tasks.small_task(max_new_tokens=3)
    task.policy.temperature = task.reference.temperature = 0.9
    return task


def asked(small, **learner):
    config = TrainConfig(
        max_new_tokens=3, missing_eos_penalty=0.5, learner=LearnerConfig(**learner)
    )
    return Task(config, small.tokenizer, small.reference, small.reward)


def answered(small, task, kl_coef, count=40):
    columns = {"prompt": [small.prompt, "not"] * (count // 2)}
    generator = torch.Generator().manual_seed(0)
    return task.answer(small.policy, columns, generator, kl_coef), columns


def by_definition(small, task, prompt, prefix, kl_coef, gamma):
    """E[sum of discounted rewards after the prefix | prefix], completion by completion."""
    done = every_completion(small.policy, small.tokenizer, prompt, 3)
    n, total, mass = len(prefix), 0.0, 0.0
    logps = [policy_logprobs(p, done) for p in (small.policy, small.reference)]
    scores = task.paid(torch.tensor(small.reward(completions=done.texts)), done.finished)
    for i, (row, mask) in enumerate(zip(done.ids.tolist(), done.mask, strict=True)):
        length = int(mask.sum())
        if tuple(row[:n]) != prefix or length <= n:
            continue
        p = float(logps[0][i, :length].sum().exp())
        drift = (logps[0] - logps[1])[i]
        earned = sum(-kl_coef * float(drift[t]) * gamma ** (t - n) for t in range(n, length))
        total += p * (earned + float(scores[i]) * gamma ** (length - 1 - n))
        mass += p
    return total / mass


def policy_logprobs(policy, done):
    ids = torch.cat([done.prompt_ids, done.ids], 1)
    with torch.no_grad():
        logits = policy.model(ids).logits[:, done.prompt_ids.shape[1] - 1 : -1]
    logp = (logits / policy.temperature).log_softmax(-1).double()
    return logp.gather(-1, done.ids[..., None])[..., 0]


@pytest.mark.parametrize(("kl_in", "gamma"), [("reward", 1.0), ("reward", 0.9), ("loss", 1.0)])
def test_enumerated_values_are_the_definitions(small, kl_in, gamma):
    task = asked(small, kl_in=kl_in, gamma=gamma)
    answers, columns = answered(small, task, 0.3, count=6)
    truth = by_enumeration(small.policy, task, answers, columns)
    assert truth.exact and not truth.value_errors.any() and not truth.advantage_errors.any()
    for i, prompt in enumerate(columns["prompt"]):
        tokens = tuple(answers.done.ids[i][answers.done.mask[i]].tolist())
        for t in range(len(tokens)):
            expected = by_definition(
                small, task, prompt, tokens[:t], 0.3 if kl_in == "reward" else 0.0, gamma
            )
            assert float(truth.values[i, t]) == pytest.approx(expected, abs=1e-5)


def test_true_advantages_average_to_zero_over_the_next_token(small):
    """sum_a pi(a|s) A(s, a) = 0: at the first state, over every first token."""
    task = asked(small)
    done = every_completion(small.policy, small.tokenizer, small.prompt, 3)
    logp = policy_logprobs(small.policy, done).float()
    done = replace(done, logprobs=torch.where(done.mask, logp, 0.0))
    columns = {"prompt": [small.prompt] * len(done.texts)}
    answers = task.judge(done, columns, 0.3)
    truth = by_enumeration(small.policy, task, answers, columns)
    first = {int(ids[0]): i for i, ids in enumerate(done.ids)}
    assert len(first) == 8
    weights = logp[list(first.values()), 0].exp()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    advantages = truth.advantages[list(first.values()), 0]
    assert float((weights * advantages).sum()) == pytest.approx(0, abs=1e-5)
    assert advantages.abs().max() > 0.1


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_continuations_agree_with_enumeration_within_their_errors(small, gamma):
    task = asked(small, gamma=gamma)
    answers, columns = answered(small, task, 0.3)
    exact = by_enumeration(small.policy, task, answers, columns)
    seen = []
    generator = torch.Generator().manual_seed(1)
    truth = by_continuation(
        small.policy, task, answers, columns, 100, generator, progress=seen.append
    )
    mask = answers.done.mask
    assert not truth.exact and seen[-1] == int(mask.sum())
    for estimate, errors, expected in (
        (truth.values, truth.value_errors, exact.values),
        (truth.advantages, truth.advantage_errors, exact.advantages),
    ):
        assert not estimate[~mask].any() and not errors[~mask].any()
        z = ((estimate - expected) / errors.clamp(min=1e-3))[mask]
        assert 0.7 < float(z.square().mean()) < 1.4  # errors of the size they are said to be
        assert abs(float(z.mean())) < 4 / len(z) ** 0.5 * 2  # neighbours share values
        assert float(errors[mask].mean()) > 0.02
    # Independent continuations on both sides of a token: variances add.
    here, after = truth.value_errors[:, :-1], truth.value_errors[:, 1:]
    expected = (here**2 + gamma**2 * after**2).sqrt() * mask[:, :-1]
    torch.testing.assert_close(truth.advantage_errors[:, :-1], expected)


def test_the_gold_is_not_asked_of_continuations(small):
    def gold(completions, **_):
        raise AssertionError

    task = asked(small)
    answers, columns = answered(small, task, 0.0, count=2)
    watching = replace(task, gold=gold)
    by_continuation(small.policy, watching, answers, columns, 2, torch.Generator())


def test_one_continuation_has_no_error(small):
    task = asked(small)
    answers, columns = answered(small, task, 0.0, count=2)
    with pytest.raises(ValueError, match="at least 2 continuations, not 1"):
        by_continuation(small.policy, task, answers, columns, 1, torch.Generator())
