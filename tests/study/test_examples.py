"""The worked examples say what a hand calculation says."""

import pytest
import torch

from rlhf_pg.study import examples
from rlhf_pg.study.config import ExamplesConfig


def silent(text: str) -> None:
    pass


def test_softmax_step():
    result = examples.softmax_step(silent)
    torch.testing.assert_close(result["grad_log"], torch.tensor([0.5, -0.5]).double())
    torch.testing.assert_close(result["theta"], torch.tensor([0.1, -0.1]).double())
    assert result["probability"] == pytest.approx(0.5498, abs=5e-5)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.8])
def test_every_baseline_keeps_the_mean_and_the_best_leaves_no_variance(p):
    result = examples.bernoulli_bandit(silent, p=p)
    assert result["exact"] == pytest.approx(p * (1 - p))
    for expected, variance, mean, _ in result["baselines"].values():
        assert expected == pytest.approx(p * (1 - p))
        assert mean == pytest.approx(expected, abs=4 * (variance / 20_000) ** 0.5 + 1e-9)
    # By hand: Var = p (1-p) (b - (1-p))^2.
    for b, name in ((0, "0"), (p, "E[r] = p"), (1 - p, "best = 1 - p"), (10, "10")):
        by_hand = p * (1 - p) * (b - (1 - p)) ** 2
        assert result["baselines"][name][1] == pytest.approx(by_hand, abs=1e-9)


def test_two_step_td():
    result = examples.two_step_td(silent)
    torch.testing.assert_close(result["delta"], torch.tensor([[1.85, 0.5]]).double())
    assert result["whole"] == pytest.approx(1 + 0.9 * 2 - 0.5) == result["advantage"]


def test_reward_to_go_has_the_same_mean_and_less_variance():
    (total, to_go) = examples.reward_to_go(silent).values()
    assert total == (0.25, 0.3125)
    assert to_go == (0.25, 0.0625)


def test_gae_exercise():
    result = examples.gae_exercise(silent)
    assert result["first"][0.0] == pytest.approx(1.0)
    assert result["first"][1.0] == pytest.approx(1.288)
    torch.testing.assert_close(result["cut"], torch.tensor([[1.25, 1, 3.875, 5.5]]).double())


def test_no_greedy_policy_reaches_the_optimum_of_rock_paper_scissors():
    result = examples.rock_paper_scissors(silent)
    assert set(result["greedy"].values()) == {-1.0}
    torch.testing.assert_close(
        result["policy"], torch.full((3,), 1 / 3).double(), atol=0.02, rtol=0
    )
    assert -0.03 < result["value"] <= 0


def test_all_are_printed_and_an_unknown_one_is_named():
    lines: list[str] = []
    examples.main(ExamplesConfig(), lines.append)
    text = "\n".join(lines)
    assert all(word in text for word in ("delta", "lambda", "sigmoid", "REINFORCE", "0.5498"))
    alone: list[str] = []
    examples.main(ExamplesConfig("gae"), alone.append)
    assert alone[0].startswith("GAE") and len(alone) < len(lines) / 3
    with pytest.raises(ValueError, match="'gea'.*gae"):
        examples.main(ExamplesConfig("gea"), silent)
