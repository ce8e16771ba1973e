"""Rewards are called by keyword with what they accept, and their answers are checked."""

import numpy as np
import pytest
import torch

from reward_models import RewardError
from reward_models.calling import call_reward, check_scores

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
