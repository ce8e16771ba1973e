"""Rewards are called by keyword with what they accept, and their answers are checked."""

import numpy as np
import pytest
import torch

from reward_models import RewardError
from reward_models.calling import NonFiniteScoreError, call_reward, call_with_parts, check_scores
from reward_models.combine import WeightedSum

TEXTS = {"prompts": ["p", "q"], "completions": [" a good film", " b"]}


@pytest.mark.parametrize(
    "scores",
    [[1, 2], (1.0, 2.0), np.array([1.0, 2.0]), torch.tensor([1, 2]), [np.float32(1), np.int64(2)],
     [torch.tensor(1.0), torch.tensor(2.0)]],
)  # fmt: skip
def test_any_list_of_numbers_becomes_floats(scores):
    checked = check_scores(scores, 2, "r")
    assert checked == [1.0, 2.0]
    assert all(type(score) is float for score in checked)


def test_none_means_does_not_apply_and_stays():
    assert check_scores([None, 0], 2, "r") == [None, 0.0]


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([1.0], "returned 1 scores for 2 completions"),
        (None, "returned NoneType"),
        ("12", "returned str"),
        (iter([1, 2]), "it must return a list of 2 numbers"),
        ([1.0, float("nan")], r"gave nan to row 1 \(' b'\)"),
        ([float("inf"), 0.0], r"gave inf to row 0 \(' a good film'\)"),
        (["1.0", 2.0], "gave '1.0' to row 0"),
        ([[1.0], [2.0]], r"gave \[1.0\] to row 0"),
        (torch.tensor([1.0, float("nan")]), "gave nan to row 1"),
    ],
)
def test_a_wrong_answer_is_named(scores, says):
    with pytest.raises(RewardError, match=says) as error:
        check_scores(scores, 2, "mine", TEXTS["completions"])
    assert "'mine'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_score_that_is_not_finite_is_both_kinds_of_error(score):
    for kind in (RewardError, FloatingPointError, NonFiniteScoreError):
        with pytest.raises(kind):
            check_scores([score], 1, "r")
    with pytest.raises(RewardError) as error:
        check_scores(["x"], 1, "r")
    assert not isinstance(error.value, FloatingPointError)


def test_parts_of_a_composed_reward_come_with_its_scores():
    members = {"a": lambda completions: [1, 2], "b": lambda completions: [None, 3]}
    expected = ([1, 5], {"a": [1, 2], "b": [None, 3]})
    assert call_with_parts(WeightedSum(members), "sum", **TEXTS) == expected
    assert call_with_parts(members["a"], "a", **TEXTS) == ([1, 2], {})


def test_a_sum_that_overflows_is_an_error():
    huge = WeightedSum({"a": lambda completions: [1e308, 0]}, {"a": 10.0})
    with pytest.raises(NonFiniteScoreError, match="reward 'sum' gave inf to row 0"):
        call_with_parts(huge, "sum", **TEXTS)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_scores_as_completions_are_needed(count):
    with pytest.raises(RewardError, match=f"returned {count} scores for 2 completions"):
        check_scores([1.0] * count, 2, "mine")


def test_columns_may_have_any_name():
    seen = {}

    def reward(completions, name, reward):
        seen.update(name=name, reward=reward)
        return [0, 0]

    columns = {"name": ["x", "y"], "reward": [1, 2]}
    WeightedSum({"mine": reward}).with_parts(**TEXTS, **columns)
    assert seen == columns


def test_functions_get_only_what_they_accept():
    seen = {}

    def plain(completions, topic):
        seen["plain"] = topic
        return [0, 0]

    def greedy(**columns):
        seen["greedy"] = sorted(columns)
        return [0, 0]

    for reward in (plain, greedy):
        call_reward(reward, "r", **TEXTS, topic=["x", "y"], finished=[True, False])
    assert seen == {
        "plain": ["x", "y"],
        "greedy": ["completions", "finished", "prompts", "topic"],
    }


def test_a_trl_style_function_works_unchanged():
    def reward_len(prompts, completions, **kwargs):  # as in TRL's documentation
        return [float(len(completion)) for completion in completions]

    assert call_reward(reward_len, "len", **TEXTS, finished=[True, True]) == [12.0, 2.0]


def test_a_missing_column_is_named_with_the_nearest_one():
    def reward(completions, topics):
        return [0, 0]

    with pytest.raises(RewardError, match="needs an argument 'topics'.*Did you mean 'topic'"):
        call_reward(reward, "r", **TEXTS, topic=["x", "y"])


def test_an_exception_becomes_one_line_with_its_place():
    def reward(completions):
        helper = {}
        return helper["missing"]

    line = reward.__code__.co_firstlineno + 2
    with pytest.raises(RewardError, match=f"test_calling.py:{line}: KeyError: 'missing'") as error:
        call_reward(reward, "mine", **TEXTS)
    assert str(error.value).startswith("reward 'mine' failed: reward at ")
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize(("kind", "becomes"), [(SystemExit, RewardError),
                                               (KeyboardInterrupt, KeyboardInterrupt)])  # fmt: skip
def test_a_reward_cannot_end_the_program_but_a_person_can(kind, becomes):
    def reward(completions):
        raise kind(3)

    with pytest.raises(becomes):
        call_reward(reward, "mine", **TEXTS)


def test_an_exception_below_the_users_file_still_names_the_users_line():
    def reward(completions):
        return torch.zeros(2) @ torch.zeros(3)

    line = reward.__code__.co_firstlineno + 1
    with pytest.raises(RewardError, match=f"test_calling.py:{line}: RuntimeError"):
        call_reward(reward, "mine", **TEXTS)


def test_a_callable_object_names_its_line_too():
    class Mine:
        def __call__(self, completions):
            raise ValueError("two\nlines")

    with pytest.raises(RewardError, match=r"__call__ at .*test_calling.py:\d+: ValueError: two li"):
        call_reward(Mine(), "mine", **TEXTS)


def test_an_asynchronous_function_is_refused():
    async def reward(completions):
        return [0, 0]

    with pytest.raises(RewardError, match="asynchronous"):
        call_reward(reward, "r", **TEXTS)
