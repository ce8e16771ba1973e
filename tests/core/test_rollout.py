"""A rollout's rows can be taken and moved together."""

from dataclasses import fields

import pytest
import torch

TENSORS = ["inputs", "actions", "logprobs", "values", "next_values", "rewards", "ends", "mask"]


@pytest.mark.parametrize("rows", [[4, 0], slice(1, 3), torch.tensor([2, 2])])
def test_rows_of_a_rollout_are_the_rows_of_every_tensor_in_it(make_rollout, rows):
    rollout = make_rollout()
    part = rollout[rows]
    for name in [*TENSORS, "ref_logprobs"]:
        assert torch.equal(getattr(part, name), getattr(rollout, name)[rows])
    assert len(part) == 2
    assert (part.kl_coef, part.group_size) == (rollout.kl_coef, rollout.group_size)


def test_taking_rows_leaves_the_rollout_as_it_was(make_rollout):
    rollout, same = make_rollout(), make_rollout()
    rollout[[0]].rewards.zero_()
    for field in fields(rollout):
        one, other = getattr(rollout, field.name), getattr(same, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_inputs_may_be_a_mapping(make_rollout):
    rollout = make_rollout()
    rollout.inputs = {"ids": rollout.inputs, "twice": 2 * rollout.inputs}
    part = rollout[[3, 1]]
    assert torch.equal(part.inputs["twice"], 2 * part.inputs["ids"])
    assert part.inputs["ids"].shape[0] == 2


def test_the_reference_may_be_absent(make_rollout):
    rollout = make_rollout()
    rollout.ref_logprobs = None
    assert rollout[[0, 1]].ref_logprobs is None


def test_a_rollout_moves_as_a_whole(make_rollout):
    """The meta device is the one that every machine has beside its own."""
    rollout = make_rollout()
    rollout.inputs = {"ids": rollout.inputs}
    moved = rollout.to("meta")
    assert moved.inputs["ids"].device.type == "meta"
    for name in [*TENSORS[1:], "ref_logprobs"]:
        assert getattr(moved, name).device.type == "meta"
        assert getattr(rollout, name).device.type == "cpu"


def test_its_length_is_its_number_of_rows(make_rollout):
    assert len(make_rollout(rows=7)) == 7
