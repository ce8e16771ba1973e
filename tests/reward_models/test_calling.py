"""Rewards are called by keyword with what they accept, and their answers are checked."""

import asyncio

import numpy as np
import pytest
import torch

from reward_models import RewardError
from reward_models.calling import (
    Log,
    NonFiniteScoreError,
    TrainerState,
    call_reward,
    call_with_parts,
    check_scores,
)
from reward_models.combine import Clip, Ensemble, Normalise, WeightedSum
from reward_models.rules import make_rule

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
        "greedy": sorted([*TEXTS, "finished", "log_extra", "log_metric", "topic", "trainer_state"]),
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


def test_a_missing_argument_is_answered_with_those_that_there_are():
    def reward(completions, environments):
        return [0, 0]

    with pytest.raises(RewardError) as error:
        call_reward(reward, "r", **TEXTS, completion_ids=[[1], [2]])
    listed = "prompts, completions, trainer_state, log_metric, log_extra, completion_ids"
    assert listed in str(error.value) and "'environments'" in str(error.value)


def test_asynchronous_parts_of_a_sum_run_at_the_same_time():
    """Each waits until all have begun: one after another, they would wait for ever."""
    begun = []

    def waiting(score):
        async def reward(completions, **columns):
            begun.append(score)
            while len(begun) < 2:
                await asyncio.sleep(0)
            return [score] * len(completions)

        return reward

    class Waiting:
        __call__ = staticmethod(waiting(10))

    members = {"a": waiting(1), "plain": lambda **_: [100, None], "b": Waiting()}
    assert WeightedSum(members)(**TEXTS) == [111, 11]


def test_asynchronous_rewards_run_inside_a_running_loop():
    """As in a notebook."""

    async def reward(completions):
        return [1, 2]

    async def cell():
        return call_reward(reward, "r", **TEXTS)

    assert asyncio.run(cell()) == [1, 2]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_an_exception_in_an_asynchronous_reward_names_its_line(kind):
    async def reward(completions):
        raise kind("no")

    line = reward.__code__.co_firstlineno + 1
    with pytest.raises(RewardError, match=f"test_calling.py:{line}: {kind.__name__}: no"):
        call_reward(reward, "r", **TEXTS)


def test_an_error_before_the_awaiting_leaves_no_coroutine_behind():
    async def one(completions):
        return [0, 0]

    def other(completions):
        raise ValueError

    with pytest.raises(RewardError, match="'other' failed"):
        WeightedSum({"one": one, "other": other})(**TEXTS)


# What TRL passes


def test_prompts_of_messages_come_as_messages_to_functions_and_as_texts_to_ours():
    seen = {}

    def reward(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, columns=sorted(columns))
        return [0.5, 0.5]

    messages = [[{"role": "user", "content": text}] for text in TEXTS["prompts"]]
    both = WeightedSum({"mine": reward, "keyword": make_rule("keyword", {"words": "film"})})
    assert both(**TEXTS, prompt_messages=messages) == [1.5, 0.5]
    assert seen["prompts"] == messages
    assert seen["completions"][0] == [{"role": "assistant", "content": " a good film"}]
    assert "prompt_messages" not in seen["columns"]


def test_rewards_log_numbers_and_a_value_per_row():
    log = Log(2)

    def reward(completions, trainer_state, log_metric, log_extra):
        log_metric("words", np.float64(trainer_state.global_step))
        log_extra("first", [text[1] for text in completions])
        return [0, 0]

    logs = {"log_metric": log.log_metric, "log_extra": log.log_extra}
    for step in (3, 4):
        call_reward(reward, "r", **TEXTS, **logs, trainer_state=TrainerState(step, 9))
    assert log.metrics == {"words": [3, 4]} and log.extra == {"first": ["a", "b"]}
    assert call_reward(reward, "r", **TEXTS) == [0, 0]  # outside of training, too
    with pytest.raises(RewardError, match="got 1 values for 2 completions"):
        log.log_extra("x", [1])
    with pytest.raises(RewardError, match="got 'x'; give a number"):
        log.log_metric("x", "x")


# A score per token

IDS = [[5, 6, 1], [7]]


def test_a_score_per_token_is_a_list_of_its_length():
    for answer in ([[1, 2, 3], 4], [torch.tensor([1, 2, 3]), np.float32(4)]):
        assert check_scores(answer, 2, "r", completion_ids=IDS) == [[1.0, 2.0, 3.0], 4.0]


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([[1, 2], 0], r"gave 2 numbers to row 0 \(' a good film'\), which has 3 completion_ids"),
        (torch.zeros(2, 3), "gave 3 numbers to row 1"),
        ([0, [None]], "gave None to row 1"),
        ([[0, float("nan"), 0], 0], "gave nan to row 0"),
    ],
)
def test_a_wrong_score_per_token_is_named(scores, says):
    with pytest.raises(RewardError, match=says):
        check_scores(scores, 2, "mine", TEXTS["completions"], IDS)


def test_scores_per_token_combine_token_by_token():
    """A number for the row counts at its last token; the sums are those of plain scores."""
    tokens = lambda completions, **_: [[1, 2, 3], [4]]  # noqa: E731
    plain = lambda completions, **_: [10, None]  # noqa: E731
    members = {"tokens": tokens, "plain": plain}
    both = {**TEXTS, "completion_ids": IDS}
    assert WeightedSum(members, {"tokens": 2.0})(**both) == [[2, 4, 16], [8]]
    assert WeightedSum({"a": tokens, "b": tokens})(**both) == [[2, 4, 6], [8]]
    assert Ensemble(members)(**both) == [[0.5, 1, 6.5], [4]]
    assert Ensemble(members, "worst")(**both) == [[1, 2, 3], [4]]
    assert Clip({"tokens": tokens}, -1, 5)(**both) == [[1, 2, 2], [4]]
    # Sums 6 and 4: mean 5, deviation 1.
    normalised = Normalise({"tokens": tokens}, eps=0.0)(**both)
    assert normalised == [[1, 2, -2], [-1]]
