"""Sums, ensembles, clipping and running moments, with None as "does not apply"."""

import statistics

import pytest

from reward_models import RewardError
from reward_models.combine import Clip, Ensemble, Normalise, WeightedSum


def fixed(*scores):
    return lambda completions: list(scores)


def run(reward, rows=3):
    return reward(prompts=[""] * rows, completions=[""] * rows)


def test_weighted_sum_skips_what_does_not_apply():
    both = WeightedSum({"a": fixed(1, 2, None), "b": fixed(10, None, None)}, {"b": 0.5})
    assert run(both) == [6, 2, None]


def test_parts_are_kept_by_name_before_weights_and_scored_once():
    calls = []

    def counted(completions):
        calls.append(len(completions))
        return [3.0] * len(completions)

    inner = Ensemble({"x": counted, "y": fixed(1, 1, 1)})
    total, parts = WeightedSum({"e": inner, "z": fixed(0, 1, 2)}, {"e": 2.0}).with_parts(
        ["p"] * 3, ["c"] * 3, finished=[True] * 3
    )
    assert total == [4, 5, 6]
    assert parts == {"e": [2] * 3, "e/x": [3] * 3, "e/y": [1] * 3, "z": [0, 1, 2]}
    assert calls == [3]


def test_ensemble_mean_and_worst_case():
    members = {"a": fixed(1, 5, None), "b": fixed(3, -1, 2)}
    assert run(Ensemble(members)) == [2, 2, 2]
    assert run(Ensemble(members, "worst")) == [1, -1, 2]


def test_clip_holds_scores_within():
    assert run(Clip({"a": fixed(-9, 0.5, None)}, -1, 1)) == [-1, 0.5, None]


def test_running_moments_are_those_of_everything_seen():
    batches = [[1.0, 2.0, None], [4.0, -3.0, 10.0]]
    reward = Normalise({"a": lambda completions: batches[0]})
    run(reward)
    reward.members["a"] = lambda completions: batches[1]
    scores = run(reward)
    seen = [1, 2, 4, -3, 10]
    mean, std = statistics.mean(seen), statistics.pstdev(seen)
    assert (reward.mean, reward.std) == (pytest.approx(mean), pytest.approx(std))
    assert scores == pytest.approx([(s - mean) / std for s in batches[1]])


def test_running_moments_survive_a_checkpoint_and_can_be_frozen():
    first = WeightedSum({"n": Normalise({"a": fixed(1, 2, 6)}), "b": fixed(0, 0, 0)})
    scores = run(first)
    again = WeightedSum({"n": Normalise({"a": fixed(1, 2, 6)}), "b": fixed(0, 0, 0)})
    again.load_state_dict(first.state_dict())
    again.members["n"].updating = False
    assert run(again) == scores == run(again)
    assert again.state_dict() == first.state_dict()
    assert first.state_dict()["n"]["moments"]["count"] == 3


def test_constant_scores_normalise_to_zero():
    assert run(Normalise({"a": fixed(0.1, 0.1, 0.1)})) == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WeightedSum({}), "no reward given"),
        (lambda: WeightedSum({"a": fixed()}, {"b": 1}), r"unknown rewards \['b'\]"),
        (lambda: WeightedSum({"a": fixed()}, {"a": float("nan")}), "not finite"),
        (lambda: Ensemble({"a": fixed()}, "median"), "'mean' or 'worst'"),
        (lambda: Clip({"a": fixed()}, 2, 1), r"\[2, 1\]"),
    ],
)
def test_nonsense_is_refused(make, says):
    with pytest.raises(RewardError, match=says):
        make()


def test_a_part_that_answers_wrongly_is_named():
    with pytest.raises(RewardError, match="reward 'b' gave nan to row 1"):
        run(WeightedSum({"a": fixed(1, 1, 1), "b": fixed(1, float("nan"), 1)}))
