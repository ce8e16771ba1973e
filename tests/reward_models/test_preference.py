"""The Bradley-Terry loss and calibration by hand, and that training learns what it should."""

import math
import statistics

import pytest
import torch

from reward_models import RewardError, preference
from reward_models.config import PreferenceConfig
from reward_models.preference import (
    bradley_terry_loss,
    calibration,
    encode_pairs,
    evaluate,
    learning_curve,
    normalise,
    split,
    train,
)
from reward_models.reward_model import RewardModel

from .conftest import tiny_config, word_tokenizer

NOUNS = ["the film", "the plot", "a film", "a plot", "the long film", "the long plot"]
TAILS = ["", " so far", " and long", " by far", " and so long", " and a film"]


def pairs(chosen="good", rejected="bad", times=6):
    return [
        {"prompt": noun, "chosen": f" was {chosen}{tail}", "rejected": f" was {rejected}{tail}"}
        for noun in NOUNS
        for tail in TAILS
    ] * times


def fresh(kind="gpt2") -> RewardModel:
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    return RewardModel.from_base(tiny_config(kind, len(tokenizer)), tokenizer, device="cpu")


CONFIG = PreferenceConfig(lr=1e-2, batch_size=16)


def test_loss_by_hand():
    zero, two = torch.zeros(3), torch.full((3,), 2.0)
    assert bradley_terry_loss(zero, zero).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(two, zero).item() == pytest.approx(math.log1p(math.exp(-2)))
    assert bradley_terry_loss(zero, two).item() == pytest.approx(2 + math.log1p(math.exp(-2)))


def test_a_margin_is_a_difference_that_must_be_exceeded():
    two, zero = torch.tensor([2.0, 3.0]), torch.zeros(2)
    assert bradley_terry_loss(two, zero, torch.tensor([2.0, 3.0])).item() == pytest.approx(
        math.log(2)
    )
    assert bradley_terry_loss(two[:1], zero[:1], 1.0).item() == pytest.approx(
        math.log1p(math.exp(-1))
    )


def test_centring_costs_the_squared_sum_and_nothing_at_balance():
    a, b = torch.tensor([3.0]), torch.tensor([1.0])
    plain = bradley_terry_loss(a, b).item()
    assert bradley_terry_loss(a, b, centring=0.1).item() == pytest.approx(plain + 0.1 * 16)
    balanced = bradley_terry_loss(a - 2, b - 2, centring=0.1).item()
    assert balanced == pytest.approx(plain)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_simple_preference_is_learned_and_its_reverse_flips(kind):
    right, reverse = fresh(kind), fresh(kind)
    report = train(right, pairs(), pairs("great", "dull", 1) + pairs(times=1), CONFIG)
    assert evaluate(right, pairs(times=1))["accuracy"] > 0.98
    assert report["pairs"] == 216 and report["held_out_pairs"] == 72
    train(reverse, pairs("bad", "good"), pairs(times=1), CONFIG)
    assert evaluate(reverse, pairs(times=1))["accuracy"] < 0.02


def test_that_a_text_ended_can_be_what_is_preferred():
    same = [
        {"prompt": noun, "chosen": f" was good{tail}", "rejected": f" was good{tail}",
         "rejected_finished": False}
        for noun in NOUNS for tail in TAILS
    ] * 6  # fmt: skip
    model = fresh()
    assert train(model, same, same[:36], CONFIG)["accuracy"] > 0.98
    ended, cut = model(["the film"] * 2, [" was good"] * 2, finished=[True, False])
    assert ended > cut


def test_scores_of_the_reference_samples_have_mean_0_and_std_1():
    model, held_out = fresh(), pairs(times=1)
    report = train(model, pairs(), held_out, CONFIG)
    prompts = [pair["prompt"] for pair in held_out] * 2
    texts = [pair["chosen"] for pair in held_out] + [pair["rejected"] for pair in held_out]
    scores = model(prompts, texts)
    assert statistics.mean(scores) == pytest.approx(0, abs=1e-5)
    assert statistics.pstdev(scores) == pytest.approx(1, abs=1e-5)
    assert (model.mean, model.std) == (report["mean"], report["std"])


def test_reference_samples_may_be_given():
    reference = {"prompts": ["a film"] * 4, "completions": [" good", " bad", " dull", " so"]}
    reference["finished"] = [True, False, True, False]
    model = fresh()
    train(model, pairs(times=1), pairs(times=1), CONFIG, reference=reference)
    scores = model(**reference)
    assert statistics.mean(scores) == pytest.approx(0, abs=1e-5)
    assert statistics.pstdev(scores) == pytest.approx(1, abs=1e-5)


def test_normalising_moves_no_order_and_a_flat_model_keeps_std_1():
    model = fresh()
    torch.nn.init.zeros_(model.model.score.weight)
    assert normalise(model, ["a"] * 2, [" good", " bad"]) == {"mean": 0.0, "std": 1.0}


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_one_alone():
    runs, config = [], PreferenceConfig(lr=1e-2, batch_size=16, seed=4)
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        model = fresh()
        model.model.config.resid_pdrop = 0.1  # dropout is on in training
        train(model, pairs(times=2), None, config)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(model.model.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_the_learning_rate_falls_linearly_to_0_in_one_epoch():
    seen = []
    train(fresh(), pairs(times=1), [], CONFIG, progress=lambda *args: seen.append(args))
    assert [(step, total) for step, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert [row["lr"] for *_, row in seen] == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3])
    assert set(seen[0][2]) == {"loss", "accuracy", "lr"}


def test_held_out_pairs_are_split_off_and_none_is_trained_on(monkeypatch):
    unique = [pair | {"prompt": f"{pair['prompt']} {i}"} for i, pair in enumerate(pairs(times=1))]
    fitted = []
    fit = preference._fit
    monkeypatch.setattr(
        preference, "_fit", lambda model, encoded, *rest: fitted.append(encoded) or
        fit(model, encoded, *rest)
    )  # fmt: skip
    model, config = fresh(), PreferenceConfig(held_out=0.25, seed=1)
    report = train(model, unique, None, config)
    assert (report["pairs"], report["held_out_pairs"]) == (27, 9)
    learned, held_out = split(unique, 0.25, 1)
    numbers = [int(pair["prompt"].split()[-1]) for pair in learned + held_out]
    assert sorted(numbers) == list(range(36)) and numbers != list(range(36))
    assert fitted[0].chosen == encode_pairs(model, learned).chosen
    assert report["accuracy"] == evaluate(model, held_out)["accuracy"]


def test_a_margin_column_overrides_the_configs():
    model = fresh()
    losses = []
    rows = [pair | {"margin": 50.0} for pair in pairs(times=1)[:4]]
    for margin in (0.0, 3.0):
        train(
            copy_of(model), rows, [], PreferenceConfig(lr=1e-9, margin=margin),
            progress=lambda step, total, row: losses.append(row["loss"]),
        )  # fmt: skip
    assert losses[0] == losses[1] == pytest.approx(50, abs=1)


def copy_of(model: RewardModel) -> RewardModel:
    import copy

    return copy.deepcopy(model)


def test_the_learning_curve_rises_and_leaves_the_model_untrained():
    model = fresh()
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    curve = learning_curve(model, pairs(), pairs(times=1), [16, 216], CONFIG)
    assert [point["pairs"] for point in curve] == [16, 216]
    assert curve[0]["loss"] > curve[1]["loss"] and curve[1]["accuracy"] > 0.98
    after = model.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (model.mean, model.std) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no preference pairs"),
        ([{"prompt": "a", "chosen": "b"}], "pair 0 has no text in column 'rejected'"),
        ([{"prompt": "a", "chosen": "b", "rejected": None}], r"columns: prompt, chosen, rejected"),
    ],
)
def test_bad_pairs_are_named(rows, says):
    with pytest.raises(RewardError, match=says):
        train(fresh(), rows, [])


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"held_out": 1.0}, "held_out must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range_are_refused(option, says):
    with pytest.raises(RewardError, match=says):
        PreferenceConfig(**option)


def test_a_loss_that_is_not_finite_is_an_error():
    model = fresh()
    model.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(RewardError, match="loss nan.* at step 1 of 1"):
        train(model, pairs(times=1)[:4], [])


def test_reliability_table_and_error_by_hand():
    sure = math.log(0.9 / 0.1)  # stated 90 %
    unsure = math.log(0.55 / 0.45)  # stated 55 %
    result = calibration([sure, sure, sure, -sure, unsure, -unsure])
    low, high = result["calibration"]
    assert (low["pairs"], high["pairs"]) == (2, 4)
    assert (low["low"], low["high"]) == (0.5, pytest.approx(0.6))
    assert (low["confidence"], low["accuracy"]) == (pytest.approx(0.55), 0.5)
    assert (high["confidence"], high["accuracy"]) == (pytest.approx(0.9), 0.75)
    assert result["ece"] == pytest.approx((2 * 0.05 + 4 * 0.15) / 6)


def test_no_difference_is_half_right_and_perfectly_calibrated():
    result = calibration([0.0, 0.0])
    assert result["ece"] == 0
    assert result["calibration"][0]["accuracy"] == 0.5


def test_certainty_of_1_falls_in_the_last_bin_and_none_in_no_bin():
    assert calibration([1000.0])["calibration"][0]["high"] == 1.0
    assert calibration([]) == {"ece": 0.0, "calibration": []}
