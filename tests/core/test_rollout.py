"""A rollout's tensors have one shape, and their rows are taken and moved together."""

import re
from dataclasses import fields, replace

import pytest
import torch

from support.core import ragged_rollout

TENSORS = ["inputs", "actions", "logprobs", "values", "next_values", "rewards", "ends", "mask"]


@pytest.mark.parametrize("rows", [[4, 0], slice(1, 3), torch.tensor([2, 2])])
def test_rows_of_a_rollout_are_the_rows_of_every_tensor_in_it(rows):
    rollout = ragged_rollout()
    part = rollout[rows]
    for name in [*TENSORS, "ref_logprobs"]:
        assert torch.equal(getattr(part, name), getattr(rollout, name)[rows])
    assert len(part) == 2
    assert (part.kl_coef, part.group_size) == (rollout.kl_coef, rollout.group_size)


def test_taking_rows_leaves_the_rollout_as_it_was():
    rollout, same = ragged_rollout(), ragged_rollout()
    rollout[[0]].rewards.zero_()
    for field in fields(rollout):
        one, other = getattr(rollout, field.name), getattr(same, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_inputs_may_be_a_mapping():
    rollout = ragged_rollout()
    rollout.inputs = {"ids": rollout.inputs, "twice": 2 * rollout.inputs}
    part = rollout[[3, 1]]
    assert torch.equal(part.inputs["twice"], 2 * part.inputs["ids"])
    assert part.inputs["ids"].shape[0] == 2


def test_the_reference_may_be_absent():
    rollout = ragged_rollout()
    rollout.ref_logprobs = None
    assert rollout[[0, 1]].ref_logprobs is None


def test_a_rollout_moves_as_a_whole():
    """The meta device is the one that every machine has beside its own."""
    rollout = ragged_rollout()
    rollout.inputs = {"ids": rollout.inputs}
    moved = rollout.to("meta")
    assert moved.inputs["ids"].device.type == "meta"
    for name in [*TENSORS[1:], "ref_logprobs"]:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(rollout, name).device.type == "cpu"


def test_its_length_is_its_number_of_rows():
    assert len(ragged_rollout(rows=7)) == 7


@pytest.mark.parametrize("name", [*TENSORS[1:-1], "ref_logprobs"])
@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (8,), (5, 8)])
def test_a_tensor_of_another_shape_than_the_mask_is_named_with_both_shapes(name, shape):
    expected = re.escape(f"{name} is {shape}, mask is (8, 5)")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        replace(ragged_rollout(), **{name: torch.zeros(shape)})


def test_actions_may_have_several_dimensions():
    rollout = replace(ragged_rollout(), actions=torch.zeros(8, 5, 2))
    assert rollout[[1, 2]].actions.shape == (2, 5, 2)
