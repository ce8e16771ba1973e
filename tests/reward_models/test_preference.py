"""The Bradley-Terry loss and calibration by hand, and that training learns what it should."""

import math
import re
import statistics

import pytest
import torch

from reward_models import RewardError, preference
from reward_models.config import PreferenceConfig
from reward_models.held_out import split
from reward_models.preference import (
    PreferenceTrainer,
    bradley_terry_loss,
    calibration,
    default_lr,
    encode_pairs,
    evaluate,
    learning_curve,
    length_correlation,
    normalise,
    steps_of,
    train,
    warnings_of,
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


CONFIG = PreferenceConfig(lr=1e-2, batch_size=16, epochs=1)


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
    runs, config = [], PreferenceConfig(lr=1e-2, batch_size=16, epochs=1, seed=4)
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
    rows = pairs(times=1)
    fitted = []
    trained = preference.PreferenceTrainer
    monkeypatch.setattr(
        preference, "PreferenceTrainer", lambda model, encoded, *rest: fitted.append(encoded) or
        trained(model, encoded, *rest)
    )  # fmt: skip
    model, config = fresh(), PreferenceConfig(held_out=0.25, steps=2, seed=1)
    report = train(model, rows, None, config)
    assert (report["pairs"], report["held_out_pairs"], report["steps"]) == (30, 6, 2)
    learned, held_out, _ = split(rows, 0.25, 1)
    assert learned + held_out != rows and all(row in learned + held_out for row in rows)
    assert fitted[0].chosen == encode_pairs(model, learned).chosen
    assert report["accuracy"] == evaluate(model, held_out)["accuracy"]


def test_a_margin_column_overrides_the_configs():
    model = fresh()
    losses = []
    rows = [pair | {"margin": 50.0} for pair in pairs(times=1)[:4]]
    for margin in (0.0, 3.0):
        train(
            copy_of(model), rows, [], PreferenceConfig(lr=1e-9, epochs=1, margin=margin),
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
        ([{"prompt": "a", "chosen": "b"}], "pair 0: no text in column 'rejected'"),
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


def trainer(model, rows, held_out=None, **options):
    measured = encode_pairs(model, held_out) if held_out else None
    return PreferenceTrainer(
        model, encode_pairs(model, rows), measured, PreferenceConfig(**options)
    )


@pytest.mark.parametrize(
    ("pairs", "options", "steps"),
    [
        (32 * 400, {}, 400),  # a pass
        (32 * 100, {}, 300),  # more passes, to at least 300 steps
        (64, {}, 20),  # but not more than ten
        (65, {"epochs": 2}, 6),
        (65, {"steps": 7}, 7),
    ],
)
def test_the_number_of_steps(pairs, options, steps):
    assert steps_of(pairs, PreferenceConfig(**options)) == steps


def test_steps_and_epochs_together_are_refused():
    with pytest.raises(RewardError, match="give one of them"):
        PreferenceConfig(steps=3, epochs=1)


def test_every_pair_is_in_every_pass_whatever_the_number_of_steps():
    batches = trainer(fresh(), pairs(times=1), batch_size=8, steps=7).batches
    assert len(batches) == 7
    assert sorted(i for batch in batches[:5] for i in batch) == list(range(36))


def test_the_gradient_of_small_forwards_is_that_of_a_large_one():
    gradients = []
    for micro_rows in (None, 10):  # 5 pairs at a time, of 16
        one = trainer(
            fresh("llama"), pairs(times=1), batch_size=16, centring=0.1, micro_rows=micro_rows
        )
        one.next_step()
        gradients.append([p.grad.clone() for p in one.parameters.values() if p.grad is not None])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-7)


def test_the_weights_with_the_least_held_out_loss_are_kept():
    """Training on reversed preferences makes every later measurement worse than the first."""
    model, seen = fresh(), []
    config = PreferenceConfig(lr=1e-2, batch_size=16, steps=40, evaluate_every=2, patience=3)
    report = train(
        model, pairs("bad", "good"), pairs(times=1), config,
        progress=lambda step, total, row: seen.append((step, row.get("held_out_loss"))),
    )  # fmt: skip
    losses = {step: loss for step, loss in seen if loss is not None}
    best = min(losses, key=losses.get)
    assert report["kept_step"] == best and report["steps"] == best + 3 * 2 < 40
    assert report["loss"] == pytest.approx(losses[best], abs=1e-5) and losses[best + 2] > 0.7
    assert all(p.requires_grad for p in model.model.parameters())


def test_without_measurements_the_last_weights_are_kept():
    config = PreferenceConfig(lr=1e-2, batch_size=16, epochs=1, evaluate_every=0)
    report = train(fresh(), pairs("bad", "good"), pairs(times=1), config)
    assert report["kept_step"] == report["steps"] == 14 and report["accuracy"] < 0.02


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {"lora_rank": 2}),
        ("llama", {"lora_rank": 2}),
        ("llama", {"freeze_trunk": True}),
        ("llama", {"bf16": True}),
    ],
)
def test_part_of_a_model_or_half_precision_can_learn_too(kind, options, tmp_path):
    if "lora_rank" in options:
        pytest.importorskip("peft")
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    config = tiny_config(kind, len(tokenizer))
    model = RewardModel.from_base(config, tokenizer, device="cpu", **options)
    names = {name: value.clone() for name, value in model.model.state_dict().items()}
    report = train(model, pairs(times=4), pairs(times=1), CONFIG)
    assert report["accuracy"] > 0.9 or "freeze_trunk" in options
    model.save_pretrained(tmp_path / "saved")
    again = RewardModel.from_pretrained(tmp_path / "saved", device="cpu")
    texts = ["the film"] * 2, [" was good", " was bad"]
    assert again(*texts) == pytest.approx(model(*texts), abs=1e-5)
    if "freeze_trunk" in options:
        now = model.model.state_dict()
        assert [name for name in names if not torch.equal(names[name], now[name])] == [
            "score.weight"
        ]


def test_the_default_learning_rate_depends_on_size_and_on_what_is_trained(monkeypatch):
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")

    def rate(**options):
        config = tiny_config("llama", len(tokenizer))
        return default_lr(RewardModel.from_base(config, tokenizer, device="cpu", **options))

    assert rate() == 1e-3
    monkeypatch.setattr("reward_models.preference.TINY", 1000)
    assert rate() == 1e-5 and rate(freeze_trunk=True) == 1e-3
    pytest.importorskip("peft")
    assert rate(lora_rank=2) == 2e-4


def test_the_correlation_with_length_by_hand():
    differences, longer = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([3, 1, 4])
    expected = (2 * 3 - 1 * 1) / math.sqrt(5 * 26)
    assert length_correlation(differences, longer).item() == pytest.approx(expected)
    assert length_correlation(-differences, -longer).item() == pytest.approx(expected)
    assert length_correlation(3 * longer.float(), longer).item() == pytest.approx(1)
    assert length_correlation(torch.zeros(3), longer).item() == 0


def longer_is_better(times: int):
    """Pairs in which "good" wins, half of them with a longer text."""
    tails = " so very long so very long"
    rows = [
        {"prompt": noun, "chosen": f" was good{tail}{tails}", "rejected": f" was bad{tail}"}
        for noun in NOUNS
        for tail in TAILS
    ]
    return (rows + pairs(times=1)) * times


def test_a_penalty_takes_the_length_out_of_the_score():
    reports = []
    for penalty in (0.0, 1.0):
        config = PreferenceConfig(
            lr=1e-2, batch_size=16, epochs=1, evaluate_every=0, length_penalty=penalty
        )
        reports.append(train(fresh("llama"), longer_is_better(4), longer_is_better(1), config))
    free, penalised = (abs(report["length_correlation"]) for report in reports)
    assert penalised < free - 0.1, (free, penalised)
    assert reports[1]["accuracy"] > 0.8


def test_length_baselines_by_hand():
    rows = [
        {"prompt": "the film", "chosen": " was good so far", "rejected": " was bad"},
        {"prompt": "the film", "chosen": " was good", "rejected": " was bad"},
        {"prompt": "the plot", "chosen": " good", "rejected": " was so bad"},
        {"prompt": "the plot", "chosen": " good", "rejected": " was bad"},
    ]
    model = fresh()
    report = evaluate(model, rows)
    assert (report["longer_wins"], report["shorter_wins"]) == (0.375, 0.625)
    assert report["longer_lost_pairs"] == 2
    right = [
        a > b for a, b in (model([r["prompt"]] * 2, [r["chosen"], r["rejected"]]) for r in rows[2:])
    ]
    assert report["longer_lost_accuracy"] == sum(right) / 2
    scores = [model([r["prompt"]] * 2, [r["chosen"], r["rejected"]]) for r in rows]
    differences = torch.tensor([a - b for a, b in scores])
    by_hand = length_correlation(differences, torch.tensor([2, 0, -2, -1])).item()
    assert report["length_correlation"] == pytest.approx(by_hand, abs=1e-5)


def test_texts_that_are_cut_are_counted_apart_and_keep_their_end():
    model = RewardModel.from_base(
        tiny_config("gpt2", 18), word_tokenizer(pad_token="<pad>", eos_token="<eos>"),
        device="cpu", max_length=6,
    )  # fmt: skip
    long = {"prompt": "the long long plot", "chosen": " was good", "rejected": " was bad so"}
    (row,) = encode_pairs(model, [long]).rejected
    assert model.tokenizer.convert_ids_to_tokens(row) == [
        "long", "plot", "was", "bad", "so", "<eos>",
    ]  # fmt: skip
    report = train(model, [long] * 3 + pairs(times=1), [long], CONFIG)
    assert (report["cut_texts"], report["held_out_cut_texts"]) == (
        3 * 2 + sum(len(f"{p['prompt']}{p[s]}".split()) > 5 for p in pairs(times=1)
                    for s in ("chosen", "rejected")),
        2,
    )  # fmt: skip
    assert any("2 of 2 held-out texts were longer" in text for text in report["warnings"])


def test_the_maximum_length_is_kept_with_the_model(tmp_path):
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    config = tiny_config("gpt2", len(tokenizer))
    RewardModel.from_base(config, tokenizer, device="cpu", max_length=6).save_pretrained(
        tmp_path / "saved"
    )
    assert RewardModel.from_pretrained(tmp_path / "saved", device="cpu").limit == 6


GOOD_REPORT = {
    "pairs": 100, "distinct_texts": 200, "cut_texts": 0, "held_out_pairs": 10, "loss": 0.3,
    "accuracy": 0.9, "longer_wins": 0.6, "shorter_wins": 0.4, "length_correlation": 0.2,
    "held_out_cut_texts": 0, "held_out_seen": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distinct_texts": 20}, "the 200 training texts are only 20 different ones"),
        ({"loss": 0.8}, "held-out loss 0.800 is above ln 2"),
        ({"accuracy": 0.6}, "accuracy 0.600 is no better than that of the length alone"),
        ({"length_correlation": -0.8}, r"follows the length \(correlation -0.80\)"),
        ({"held_out_seen": 2}, "2 of 10 held-out pairs have a completion that is in the training"),
        ({"cut_texts": 4}, "4 of 200 training texts and 0 of 20 held-out texts were longer"),
    ],
)
def test_each_warning_alone(changes, says):
    assert warnings_of(GOOD_REPORT) == []
    (warning,) = warnings_of(GOOD_REPORT | changes)
    assert re.search(says, warning)
