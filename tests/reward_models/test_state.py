"""A checkpoint's state is read back exactly, or refused; random generators continue."""

import random

import numpy as np
import pytest
import torch

from reward_models.state import (
    fingerprint,
    load_state,
    random_state,
    save_state,
    set_random_state,
)

STATE = {
    "tensor": torch.tensor([[1.5, -0.0], [float("nan"), float("inf")]]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "optimiser": {0: {"step": torch.tensor(3.0)}, 7: {"step": torch.tensor(4.0)}},
    "nested": [1, 2.5, None, True, "tensor:0", {"dict": {}}, (1, [2, (3,)])],
    "numbers": [np.float64(0.1), np.int64(3), 2**53],
    "empty": {},
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_state_comes_back_with_its_types(tmp_path):
    save_state(tmp_path / "state", STATE, lambda folder: (folder / "more").write_text("x"))
    assert same(load_state(tmp_path / "state"), STATE)
    with pytest.raises(TypeError, match="cannot hold a set"):
        save_state(tmp_path / "other", {"a": {1, 2}})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "checksums.json", "more"])
@pytest.mark.parametrize("how", ["cut", "emptied", "one bit", "removed"])
def test_damage_is_noticed_and_named(tmp_path, name, how):
    folder = tmp_path / "000004"
    save_state(folder, STATE, lambda made: (made / "more").write_text("something"))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"cut": content[: len(content) // 2], "emptied": b"", "one bit": content}
    if how == "removed":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(changed[how])
    with pytest.raises(ValueError, match="the checkpoint .*000004 is damaged"):
        load_state(folder)


def test_the_random_generators_of_rewards_continue():
    def draws():
        return random.random(), np.random.rand(), float(torch.rand(()))

    before = random_state()
    first, second = draws(), draws()
    set_random_state(before)
    assert draws() == first
    middle = random_state()
    assert draws() == second
    set_random_state(middle)
    assert draws() == second


def test_a_fingerprint_changes_with_every_part():
    rows = {"prompt": ["a", "b"], "n": [1, 2]}
    kinds = [rows, {**rows, "n": [1, 3]}, {**rows, "prompt": ["b", "a"]}, {"prompt": ["a", "b"]}]
    assert len({fingerprint(each) for each in kinds}) == 4
    assert fingerprint(torch.zeros(2)) != fingerprint(torch.tensor([0.0, 1.0]))
    assert fingerprint(rows) == fingerprint(dict(rows))
