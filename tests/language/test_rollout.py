"""Scores land on the last real token, the KL on every one; rewards get texts and columns."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import (
    all_scored,
    completion_rows,
    exact_kl,
    kl_per_token,
    language_rollout,
    reference_logprobs,
    score,
    score_completions,
    unscored,
)
from rlhf_pg.language.sampling import Completions
from support.language import PROMPTS, alone, draw, tiny_lm

MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
LOGPROBS = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, -1.0, -1.5], [-3.0, 0.0, 0.0]])
REFERENCE = torch.tensor([[-1.5, -1.0, 9.0], [-0.5, -3.0, -1.0], [-2.0, 9.0, 9.0]])
SCORES = torch.tensor([1.0, -2.0, 3.0])


def done_by_hand():
    """Three completions: EOS second, cut at three tokens, EOS first. Garbage in the padding."""
    values = torch.tensor([[1.0, 2.0, 99.0, 99.0], [3.0, 4.0, 5.0, 6.0], [7.0, 99.0, 99.0, 99.0]])
    return Completions(
        prompt_ids=torch.tensor([[0, 5], [5, 6], [0, 7]]),
        prompt_mask=torch.tensor([[0, 1], [1, 1], [0, 1]]),
        ids=torch.tensor([[4, 1, 0], [4, 5, 6], [1, 0, 0]]),
        mask=MASK,
        logprobs=torch.where(MASK, LOGPROBS, -99.0),
        values=values,
        finished=torch.tensor([True, False, True]),
        prompts=["a", "b c", "d"],
        texts=[" x", " x y z", ""],
    )


def test_the_score_lands_on_the_last_real_token():
    rollout = language_rollout(done_by_hand(), SCORES, REFERENCE, kl_coef=0.0)
    assert rollout.rewards.tolist() == [[0, 1, 0], [0, 0, -2], [3, 0, 0]]
    assert rollout.ends.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_the_kl_is_taken_off_the_reward_of_every_real_token():
    rollout = language_rollout(done_by_hand(), SCORES, REFERENCE, kl_coef=0.1)
    # k1 = log pi - log ref: .5, -1 | 0, 2, -.5 | -1, and the reward loses 0.1 of it.
    expected = [[-0.05, 1.1, 0], [0, -0.2, -1.95], [3.1, 0, 0]]
    assert_close(rollout.rewards, torch.tensor(expected))
    assert rollout.ref_logprobs is None


def test_the_kl_can_be_left_to_the_loss():
    rollout = language_rollout(done_by_hand(), SCORES, REFERENCE, kl_coef=0.1, kl_in="loss")
    assert rollout.rewards.tolist() == [[0, 1, 0], [0, 0, -2], [3, 0, 0]]
    assert rollout.kl_coef == 0.1 and torch.equal(rollout.ref_logprobs, REFERENCE)


def test_a_cut_completion_is_terminal_unless_it_may_bootstrap():
    as_terminal = language_rollout(done_by_hand(), SCORES, REFERENCE, 0.0)
    assert as_terminal.values.tolist() == [[1, 2, 0], [3, 4, 5], [7, 0, 0]]
    assert as_terminal.next_values.tolist() == [[2, 0, 0], [4, 5, 0], [0, 0, 0]]
    cut = language_rollout(done_by_hand(), SCORES, REFERENCE, 0.0, bootstrap_truncated=True)
    assert cut.next_values.tolist() == [[2, 0, 0], [4, 5, 6], [0, 0, 0]]


def test_advantages_of_a_rollout_by_hand():
    """lambda 1, gamma 1: the return minus V, and a cut row's return has V of its last state."""
    config = LearnerConfig(lam=1.0)
    for bootstrap, ahead in ((False, 0.0), (True, 6.0)):
        rollout = language_rollout(done_by_hand(), SCORES, REFERENCE, 0.0, "reward", bootstrap)
        advantages, targets = estimate_advantages(rollout, config)
        returns = [[1, 1, 0], [ahead - 2] * 3, [3, 0, 0]]
        assert targets.tolist() == returns
        expected = [[0, -1, 0], [ahead - 5, ahead - 6, ahead - 7], [-4, 0, 0]]
        assert advantages.tolist() == expected


def test_completions_of_one_prompt_are_compared_with_each_other():
    done = done_by_hand()
    rollout = language_rollout(done, SCORES, REFERENCE, 0.0, group_size=3)
    advantages, _ = estimate_advantages(rollout, LearnerConfig(baseline="leave-one-out"))
    # 1 - (-2 + 3)/2, -2 - (1 + 3)/2, 3 - (1 - 2)/2
    expected = torch.tensor([0.5, -4.0, 3.5])[:, None] * MASK
    assert_close(advantages, expected)


def test_the_reference_scores_at_its_own_temperature(lm, tokenizer):
    policy = LanguagePolicy(lm, temperature=0.7)
    done = draw(policy, tokenizer)
    reference = LanguagePolicy(tiny_lm("gpt2", tokenizer, seed=5), 0.7, critic="none")
    scored = reference_logprobs(reference, done)
    assert not scored.requires_grad
    for row in range(len(PROMPTS)):
        logprobs, tokens, _ = alone(reference, done, row)
        own = logprobs.gather(1, tokens[:, None])[:, 0]
        assert_close(scored[row][done.mask[row]], own, atol=1e-5, rtol=0)


def test_a_reward_is_called_with_texts_columns_and_what_finished():
    received = {}

    def reward(**columns):
        received.update(columns)
        return [1, None, 0.5]

    no = ["no"] * 3
    columns = {"answer": ["1", "2", "3"]}
    columns |= {"prompt": no, "prompts": no, "completions": no, "finished": no}
    scores, parts = score_completions(reward, done_by_hand(), columns)
    assert scores[[0, 2]].tolist() == [1, 0.5] and scores[1].isnan() and parts == {}
    del received["log_metric"], received["log_extra"], received["trainer_state"]
    assert received == {
        "prompts": ["a", "b c", "d"],
        "completions": [" x", " x y z", ""],
        "completion_ids": [[4, 1], [4, 5, 6], [1]],  # EOS (1) included, padding not
        "finished": [True, False, True],
        "answer": ["1", "2", "3"],
    }


def test_a_composed_reward_gives_its_parts():
    class Composed:
        def with_parts(self, completions, **columns):
            words = [float(len(text.split())) for text in completions]
            return words, {"words": words, "none": [None] * 3}

    scores, parts = score_completions(Composed(), done_by_hand(), {})
    assert scores.tolist() == [1, 3, 0]
    assert parts == {"words": [1, 3, 0], "none": [None] * 3}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_names_its_row(bad):
    with pytest.raises(FloatingPointError, match=rf"{bad} to row 1 \(' x y z'\)"):
        score_completions(lambda **_: [0, bad, 0], done_by_hand(), {})


def test_a_wrong_number_of_scores_is_an_error():
    with pytest.raises(ValueError, match="returned 2 scores for 3 completions"):
        score_completions(lambda **_: [0, 1], done_by_hand(), {})


@pytest.mark.parametrize("answer", [None, 1.0, ["good", 1, 2]])
def test_an_answer_that_is_no_list_of_numbers_is_an_error(answer):
    with pytest.raises(ValueError, match="reward"):
        score_completions(lambda **_: answer, done_by_hand(), {})


def test_an_error_in_a_reward_names_its_place():
    def reward(**_):
        raise RuntimeError("out of coffee")

    with pytest.raises(ValueError, match="reward at .*test_rollout.py:.* RuntimeError: out of c"):
        score_completions(reward, done_by_hand(), {})


def test_a_row_without_a_score_has_no_step_in_the_rollout():
    """Of three samples of one prompt the second has no score: only the others are compared."""
    done, scores = done_by_hand(), torch.tensor([1.0, torch.nan, 3.0])
    rollout = language_rollout(done, scores, REFERENCE, 0.1, group_size=3)
    assert rollout.mask.any(1).tolist() == [True, False, True]
    assert rollout.rewards[1].tolist() == [0, 0, 0] and done.mask[1].all()
    advantages, _ = estimate_advantages(
        language_rollout(done, scores, REFERENCE, 0.0, group_size=3),
        LearnerConfig(baseline="leave-one-out"),
    )
    assert advantages.tolist() == [[-2, -2, 0], [0, 0, 0], [2, 0, 0]]
    rows = completion_rows(done, {"score": scores})
    assert [row["score"] for row in rows] == [1, None, 3]


def test_true_values_need_every_score():
    with pytest.raises(ValueError, match=r"no score \(None\) to row 1 \(' x y z'\)"):
        all_scored(torch.tensor([1.0, torch.nan, 3.0]), done_by_hand())


# Rewards per token


def test_rewards_per_token_land_on_their_tokens():
    """Beside a number for a row, which lands on its last token, and None."""
    answer = [[0.5, 2.0], -2.0, None]
    scores = score(lambda **_: answer, None, done_by_hand(), {})
    assert scores.scores[:2].tolist() == scores.shaped[:2].tolist() == [2.5, -2]
    rollout = language_rollout(done_by_hand(), scores.rewards, REFERENCE, kl_coef=0.0)
    assert rollout.rewards.tolist() == [[0.5, 2, 0], [0, 0, -2], [0, 0, 0]]
    assert rollout.mask.any(1).tolist() == [True, True, False]
    advantages, targets = estimate_advantages(rollout, LearnerConfig(lam=0.0))
    # r + V' - V: .5 + 2 - 1, 2 - 2 | 4 - 3, 5 - 4, -2 - 5
    assert advantages.tolist() == [[1.5, 0, 0], [1, 1, -7], [0, 0, 0]]
    to_go, _ = estimate_advantages(rollout, LearnerConfig(baseline="none"))
    assert to_go.tolist() == [[2.5, 2, 0], [-2, -2, -2], [0, 0, 0]]


def test_groups_compare_the_sums_of_rewards_per_token():
    answer = [[0.5, 0.5], [-1.0, 0.0, -1.0], [3.0]]
    rollouts = [
        language_rollout(done_by_hand(), x, REFERENCE, 0.0, group_size=3)
        for x in (score(lambda **_: answer, None, done_by_hand(), {}).rewards, SCORES)
    ]
    config = LearnerConfig(baseline="leave-one-out")
    assert_close(*(estimate_advantages(rollout, config)[0] for rollout in rollouts))


def test_clipping_and_penalties_of_rewards_per_token_fall_on_the_last():
    answer = [[3.0, 2.0], [1.0, 1.0, 1.0], [0.5]]
    scores = score(lambda **_: answer, None, done_by_hand(), {}, 2.0, 0.25)
    assert scores.shaped.tolist() == [2, 1.75, 0.5]  # the second was cut at the limit
    assert scores.rewards.tolist() == [[3, -1, 0], [1, 1, -0.25], [0.5, 0, 0]]


def test_unscored_episodes_carry_no_reward():
    rollout = unscored(done_by_hand())
    assert not rollout.rewards.any() and len(rollout) == 3
    assert torch.equal(rollout.mask, MASK)


@pytest.mark.parametrize(
    ("clip", "penalty", "shaped"),
    [
        (None, 0.0, [0.5, 0.5, 7.0, -7.0]),
        (1.0, 0.0, [0.5, 0.5, 1.0, -1.0]),
        (None, 0.25, [0.5, 0.25, 7.0, -7.25]),
        (1.0, 0.25, [0.5, 0.25, 1.0, -1.25]),  # clipped first: the penalty stays
    ],
)
def test_scores_are_clipped_and_then_cut_completions_are_penalised(clip, penalty, shaped):
    done = SimpleNamespace(
        finished=torch.tensor([True, False, True, False]),
        logprobs=torch.zeros(4, 1),
        ids=torch.zeros(4, 1, dtype=torch.long),
        mask=torch.ones(4, 1, dtype=torch.bool),
        prompts=[""] * 4,
        texts=["a", "b", "c", "d"],
    )
    gold = lambda completions, **_: [float(ord(text)) for text in completions]  # noqa: E731
    scores = score(lambda **_: [0.5, 0.5, 7.0, -7.0], gold, done, {}, clip, penalty)
    assert scores.scores.tolist() == [0.5, 0.5, 7.0, -7.0]
    assert scores.shaped.tolist() == shaped
    assert scores.gold.tolist() == [97.0, 98.0, 99.0, 100.0]  # neither clipped nor penalised
    assert score(lambda **_: [0.0] * 4, None, done, {}).gold is None


# The KL


def test_the_kl_of_a_token_is_k1_and_none_on_padding():
    expected = [[0.5, -1.0, 0.0], [0.0, 2.0, -0.5], [-1.0, 0.0, 0.0]]
    assert kl_per_token(done_by_hand(), REFERENCE).tolist() == expected


def test_the_exact_kl_is_the_mean_of_k1_with_less_noise(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, seed=0, spread=0.1), critic="none")
    reference = LanguagePolicy(tiny_lm("llama", tokenizer, seed=3, spread=0.1), critic="none")
    done = draw(policy, tokenizer, ["the film"] * 2000, steps=4)
    exact = exact_kl(policy, reference, done)
    k1 = kl_per_token(done, reference_logprobs(reference, done)).sum(1)
    noise = float(k1.std() / len(k1) ** 0.5)
    assert float(exact.mean()) == pytest.approx(float(k1.mean()), abs=4 * noise)
    assert exact.std() < 0.5 * k1.std() and (exact >= 0).all()
    assert_close(exact, exact_kl(policy, reference, done, rows=999))


def test_the_exact_kl_of_a_row_is_the_sum_over_its_states(tokenizer, lm):
    """Each row alone, by plain calls of both models."""
    policy = LanguagePolicy(lm, temperature=0.7, critic="none")
    reference = LanguagePolicy(tiny_lm("gpt2", tokenizer, seed=3), 0.7, critic="none")
    done = draw(policy, tokenizer)
    for row, actual in enumerate(exact_kl(policy, reference, done)):
        p, q = (alone(model, done, row)[0] for model in (policy, reference))
        expected = float((p.exp() * (p - q)).sum())
        assert float(actual) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_rows_hold_what_was_measured_of_each_completion():
    measured = {"score": SCORES, "kl": torch.tensor([0.123456, 0.0, -1.0])}
    first, second, _ = completion_rows(done_by_hand(), measured)
    assert first == {
        "prompt": "a",
        "completion": " x",
        "score": 1.0,
        "kl": 0.1235,
        "length": 2,
        "finished": True,
    }
    assert second["length"] == 3 and second["finished"] is False
