"""Every check of the doctor reports what was broken on purpose, and nothing else does."""

import copy
import json
import random
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import normalizers, processors
from torch import nn

from reward_models.combine import Normalise
from reward_models.reward_model import RewardModel
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import models
from rlhf_pg.language import train as training
from rlhf_pg.language.config import preset
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.study.config import DoctorConfig
from rlhf_pg.study.doctor import measure, model
from rlhf_pg.study.doctor.context import Context
from rlhf_pg.study.doctor.report import GROUPS, checks_of, run_checks
from rlhf_pg.study.doctor.reward import spread
from support.language import ARCHITECTURES, TEXTS, alone, tiny_lm

CUTS = ((2, 3, 5, 7), (1, 4, 6, 8), (2, 3, 5, 7))  # no prompt twice
PROMPTS = [" ".join(text.split()[:n]) for text, cuts in zip(TEXTS, CUTS, strict=True) for n in cuts]


@pytest.fixture(scope="module")
def trained():
    """A model of each architecture with its tokenizer, trained a little on three sentences."""
    torch.set_num_threads(1)
    made = {}
    for kind in ARCHITECTURES:
        tokenizer = models.train_tokenizer(TEXTS, "word")
        model = tiny_lm(kind, tokenizer, spread=0.1)
        rows = [ids + [tokenizer.eos_token_id] for ids in tokenizer(TEXTS)["input_ids"]]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            for ids in map(torch.tensor, rows):
                model(input_ids=ids[None], labels=ids[None]).loss.backward()
            optimizer.step()
        made[kind] = (model.eval(), tokenizer)
    return made


@pytest.fixture
def opened(trained, tmp_path, monkeypatch):
    """`opened(kind, alter, reward, prompts, **options)`: a context, its model altered in place."""
    monkeypatch.chdir(tmp_path)
    load = models.load

    def make(kind="llama", alter=None, reward=None, prompts=PROMPTS, **options):
        pair = copy.deepcopy(trained[kind])
        if alter is not None:
            pair = alter(*pair) or pair
        monkeypatch.setattr(models, "load", lambda name: pair if name == "tiny" else load(name))
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
        shared = {"model": "tiny", "data": str(path), "device": "cpu", "max_new_tokens": 12}
        run = replace(preset(options.pop("algorithm", "ppo")), rows=8, **shared)
        config = DoctorConfig(**{**vars(run), "explain": False} | options)
        return Context(config, graded if reward is None else reward)

    return make


def results_of(context):
    return {result.name: result for result in run_checks(context)}


def reported(results):
    """Names and statuses of the checks that warn or fail; each says what to do."""
    bad = {name: r for name, r in results.items() if r.status in ("warn", "fail")}
    assert all(r.advice for r in bad.values())
    return {name: r.status for name, r in bad.items()}


# Rewards. The first has nothing wrong with it: graded, of the text alone, whatever its length.


def graded(completions, **_):
    # Messages where the prompts are messages, as TRL passes them.
    texts = [x if isinstance(x, str) else x[0]["content"] for x in completions]
    words = [text.split() for text in texts]
    return [sum(map(len, w)) / max(1, len(w)) + 0.5 * ("good" in w) for w in words]


def longer(completions, **_):
    return [0.1 * len(text.split()) for text in completions]


def shorter(completions, **_):
    return [-score for score in longer(completions)]


def random_scores(completions, **_):
    return [random.random() for _ in completions]


def constant(completions, **_):
    return [0.1] * len(completions)


def of_the_prompt(prompts, **_):
    return [0.25 * len(prompt) for prompt in prompts]


def of_the_row(completions, **_):
    return [score + row for row, score in enumerate(graded(completions))]


def centred(completions, **_):
    scores = graded(completions)
    return [score - sum(scores) / len(scores) for score in scores]


def sometimes_nan(completions, **_):
    return [float("nan") if i == 3 else s for i, s in enumerate(graded(completions))]


def sometimes_none(prompts, completions, **_):
    pairs = zip(prompts, graded(completions), strict=True)
    return [None if len(prompt) < 10 else score for prompt, score in pairs]


def never_applies(completions, **_):
    return [None] * len(completions)


def of_two_values(completions, **_):
    return [float(len(text) % 2) for text in completions]


def nearly_equal(completions, **_):
    return [0.5 + 1e-5 * score for score in graded(completions)]


def too_few(**_):
    return [1.0, 2.0]


def raising(**_):
    raise KeyError("colour")


def far_from_zero(completions, **_):
    return [100.0 + score for score in graded(completions)]


def huge(completions, **_):
    return [100.0 * (score - 4.0) for score in graded(completions)]


def small(completions, **_):
    return [0.1 * score for score in graded(completions)]


def of_the_end(completions, finished, **_):
    return [s + end for s, end in zip(graded(completions), finished, strict=True)]


class Judge:
    """A sequence classifier that pads on a side and passes no mask."""

    def __init__(self, tokenizer, side):
        self.model = RewardModel.from_base(tiny_lm("gpt2", tokenizer), tokenizer).model
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.padding_side = side

    @torch.no_grad()
    def __call__(self, prompts, completions, **_):
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        inputs = self.tokenizer(texts, padding=True, return_tensors="pt")
        return self.model(input_ids=inputs["input_ids"]).logits[:, 0]


def judge(side):
    return Judge(models.train_tokenizer(TEXTS, "word"), side)


# What can be wrong with a model or a tokenizer; each changes them in place.


class AlwaysRandom(nn.Module):
    """Random in every forward."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.1, training=True)


class StaysOn(nn.Dropout):
    """A dropout that no eval() turns off."""

    def train(self, mode=True):
        return super().train(True)


def with_drop(module):
    def alter(model, tokenizer):
        model.transformer.drop = module

    return alter


def with_nan(model, tokenizer):
    list(model.parameters())[3].data.view(-1)[1] = float("nan")


def without_positions(model, tokenizer):
    forward = model.forward
    model.forward = lambda position_ids=None, **rest: forward(**rest)


def other_with_cache(shift):
    def alter(model, tokenizer):
        forward = model.forward

        def shifted(past_key_values=None, **rest):
            out = forward(past_key_values=past_key_values, **rest)
            if past_key_values is not None:
                out.logits[..., 5] += shift
            return out

        model.forward = shifted

    return alter


def scaled_head(factor):
    def alter(model, tokenizer):
        model.get_output_embeddings().weight.data *= factor

    return alter


def never_ends(model, tokenizer):
    forward = model.forward

    def silenced(**inputs):
        out = forward(**inputs)
        out.logits[..., tokenizer.eos_token_id] -= 50.0
        return out

    model.forward = silenced


def more_rows_than_tokens(model, tokenizer):
    return tiny_lm("llama", tokenizer, spread=0.1, vocab_size=len(tokenizer) + 8), tokenizer


def pad_is_eos(model, tokenizer):
    tokenizer.pad_token = tokenizer.eos_token


def other_eos(model, tokenizer):
    model.config.eos_token_id = model.generation_config.eos_token_id = 5


def with_bos(model, tokenizer):
    tokenizer.bos_token = "a"
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="a $A", special_tokens=[("a", tokenizer.convert_tokens_to_ids("a"))]
    )


def lowering(model, tokenizer):
    tokenizer._tokenizer.normalizer = normalizers.Lowercase()


def with_template(model, tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def frozen_layer(model, tokenizer):
    model.transformer.h[1].mlp.requires_grad_(False)


def unused_parameter(model, tokenizer):
    model.model.unused = nn.Parameter(torch.ones(3))


def idle_parameter(model, tokenizer):
    """A parameter whose gradient is there, and 0."""
    model.model.idle = nn.Parameter(torch.ones(3))
    forward = model.forward

    def unchanged(**inputs):
        out = forward(**inputs)
        out.logits = out.logits + 0 * model.model.idle.sum()
        return out

    model.forward = unchanged


def training_mode(context, monkeypatch):
    monkeypatch.setattr(LanguagePolicy, "train", nn.Module.train)


def other_temperature(context, monkeypatch):
    context.trainer.reference.temperature = 0.9


def mask_without_eos(context, monkeypatch):
    sample = training.sample

    def masked_by_pad(policy, tokenizer, *rest):
        done = sample(policy, tokenizer, *rest)
        done.mask[:, 1:] &= done.ids[:, 1:] != tokenizer.eos_token_id
        done.logprobs = zero_padding(done.logprobs, done.mask)
        return done

    monkeypatch.setattr(training, "sample", masked_by_pad)


def scored_by_its_own_forward(context, monkeypatch):
    for policy in (context.trainer.policy, context.trainer.reference):
        vars(policy)["plain_head"] = None


def memory_of(share):
    def alter(context, monkeypatch):
        total = sum(context.trainer.bytes_needed().values()) * share
        monkeypatch.setattr(context.trainer, "total_memory", lambda: total)

    return alter


@dataclass
class Case:
    """Something broken, the one check that reports it, how, and a part of its advice.

    `also` are the checks that report its consequences.
    """

    check: str
    status: str
    advice: str
    alter: Any = None  # of model and tokenizer, before they are opened
    after: Any = None  # of the opened context
    kind: str = "llama"
    reward: Any = None
    prompts: list[Any] = field(default_factory=lambda: PROMPTS)
    options: dict[str, Any] = field(default_factory=dict)
    also: dict[str, str] = field(default_factory=dict)


RLOO = {"algorithm": "rloo", "rows": 16}
CASES = {
    # model
    **{f"nan in {kind}": Case("finite weights", "fail", ".", with_nan, kind=kind)
       for kind in ARCHITECTURES},
    "noise": Case("dropout off", "fail", "from the forward", with_drop(AlwaysRandom()),
                  kind="gpt2"),
    "dropout": Case("dropout off", "fail", "transformer.drop", with_drop(StaysOn(0.2)),
                    kind="gpt2"),
    "training mode": Case("dropout off", "fail", "transformer.drop",
                          with_drop(nn.Dropout(0.2)), after=training_mode, kind="gpt2"),
    "cache": Case("sampling equals scoring", "fail", "cache", other_with_cache(0.1)),
    "rounding": Case("sampling equals scoring", "warn", "rounding", other_with_cache(1e-4),
                     kind="qwen2"),
    "bf16": Case("sampling equals scoring", "warn", "bfloat16", other_with_cache(0.1),
                 after=lambda context, _: setattr(context.config, "bf16", True)),
    "positions": Case("left padding", "fail", "position_ids", without_positions, kind="gpt2",
                      after=scored_by_its_own_forward),
    "reference": Case("KL at the start", "fail", "keeps between calls", after=other_temperature),
    "untrained": Case("entropy", "warn", "untrained", scaled_head(1e-3), kind="gpt-neox",
                      also={"completions end": "warn"}),  # EOS is one token of many
    "certain": Case("entropy", "warn", "certain", scaled_head(30), also={"spread": "fail"}),
    "endless": Case("completions end", "warn", "--max_new_tokens", never_ends),
    "no tokens": Case("sampled ids", "warn", "tokenizer", more_rows_than_tokens,
                      also={"entropy": "warn"}),
    # tokenizer and prompts
    "other EOS": Case("EOS token", "warn", "[5]", other_eos),
    **{f"pad is EOS in {kind}": Case("pad token", "warn", "ids != pad", pad_is_eos, kind=kind)
       for kind in ARCHITECTURES},
    "two BOS": Case("BOS token", "warn", "remove it", with_bos, also={"round trip": "warn"}),
    "unknown": Case("unknown tokens", "warn", "row 12, 'the zebra",
                    prompts=[*PROMPTS, "the zebra is"]),
    "lower case": Case("round trip", "warn", "'The film'", lowering,
                       prompts=[*PROMPTS, "The film", "The PLOT is"]),
    "EOS in text": Case("special tokens", "warn", "row 12",
                        prompts=[*PROMPTS, "the film <eos> is"]),
    "template": Case("chat template", "warn", "messages", with_template),
    "long prompt": Case("prompt lengths", "warn", "row 12",
                        prompts=[*PROMPTS, " ".join(["the"] * 35)]),
    "repeats": Case("repeated prompts", "warn", "n times", prompts=[*PROMPTS, *PROMPTS[:3]]),
    "few prompts": Case("number of prompts", "warn", "--rows to 5", prompts=PROMPTS[:5]),
    # reward
    "NaN": Case("valid scores", "fail", "nan to row 3", reward=sometimes_nan),
    "wrong count": Case("valid scores", "fail", "2 scores for 8", reward=too_few),
    "error": Case("valid scores", "fail", "colour", reward=raising),
    "None": Case("valid scores", "warn", "left out of training", reward=sometimes_none,
                 options={"missing_eos_penalty": 0.3}),
    "only None": Case("valid scores", "fail", "left out of training", reward=never_applies),
    "random": Case("same score twice", "fail", "model.eval()", reward=random_scores,
                   options={"missing_eos_penalty": 0.3}),
    "row": Case("order and batch", "fail", "changes with its row", reward=of_the_row),
    "row and moments": Case("order and batch", "fail", "changes with its row",
                            reward=Normalise({"of_the_row": of_the_row})),
    "batch": Case("order and batch", "fail", "mean of the batch", reward=centred),
    "padding": Case("order and batch", "fail", 'padding_side = "right"', reward=judge("left")),
    "constant": Case("spread", "fail", "all completions", reward=constant),
    "of the prompt": Case("spread", "fail", "prompt alone", reward=of_the_prompt),
    "binary": Case("spread", "warn", "two values", reward=of_two_values),
    "nearly equal": Case("spread", "warn", "equal, or nearly", reward=nearly_equal,
                         also={"scale": "warn"}),
    "end": Case("sees the end", "warn", "to the scores' std",
                options={"missing_eos_penalty": 0.0}),
    "mean": Case("scale", "warn", "far from 0", reward=far_from_zero),
    "scale": Case("scale", "warn", "too large for the KL penalty", reward=huge),
    "small scale": Case("scale", "warn", "too small for the KL penalty", reward=small),
    "penalty": Case("scale", "warn", "missing_eos_penalty 9 outweighs",
                    options={"missing_eos_penalty": 9.0}),
    "longer": Case("length", "warn", "longer", reward=longer, options=RLOO),
    "shorter": Case("length", "warn", "shorter", reward=shorter, options=RLOO),
    # gradient step
    "memory": Case("memory", "fail", "--lora_rank", after=memory_of(0.9)),
    "little memory": Case("memory", "warn", "--lora_rank", after=memory_of(1.1)),
    "mask": Case("EOS gradient", "fail", "ids != pad", after=mask_without_eos),
    "no advantage": Case("gradient norm", "fail", "differs between samples", reward=of_the_prompt,
                         options={**RLOO, "missing_eos_penalty": 0.0},
                         also={"spread": "fail", "sees the end": "warn", "EOS gradient": "fail"}),
    "frozen": Case("all parameters learn", "warn", "h.1.mlp", frozen_layer, kind="gpt2"),
    "unused": Case("all parameters learn", "warn", "model.unused", unused_parameter),
    "idle": Case("all parameters learn", "warn", "model.idle", idle_parameter),
    "gradient": Case("gradient norm", "warn", "clipped", reward=huge,
                     options={"algorithm": "reinforce", "kl_coef": 10.0}),
    "time": Case("time", "warn", "most of it is", options={"iterations": 10**9}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_check_reports_what_is_broken_and_no_other_does(opened, monkeypatch, name):
    case = CASES[name]
    context = opened(case.kind, case.alter, case.reward, case.prompts, **case.options)
    if case.after:
        case.after(context, monkeypatch)
    results = results_of(context)
    assert reported(results) == {case.check: case.status, **case.also}
    assert case.advice in results[case.check].advice


def test_every_check_has_a_case():
    names = {case.check.lower() for case in CASES.values()} | {"reference tokens"}
    checks = [check for module in GROUPS.values() for check in checks_of(module)]
    assert names == {check.__name__.replace("_", " ") for check in checks}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_nothing_is_reported_if_nothing_is_broken(opened, kind):
    context = opened(kind)
    before = copy.deepcopy(context.trainer.policy.state_dict())
    results = results_of(context)
    assert {
        n: (r.status, r.measured, r.advice) for n, r in results.items() if r.status != "pass"
    } == {"length": ("skip", "too few scores, or all equal", "")}
    after = context.trainer.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(context.iteration.seconds) == ["sampling", "reward", "reference", "update"]


HEALTHY = {
    "reinforce": {"algorithm": "reinforce"},
    "rloo": RLOO,
    "grpo": {"algorithm": "grpo", "rows": 16},
    "adapters": {"algorithm": "reinforce", "lora_rank": 2},
    "adapters with a critic": {"lora_rank": 2},
    "dropout that evaluation turns off": {
        "alter": with_drop(nn.Dropout(0.3).train()),
        "kind": "gpt2",
    },
    "the end is seen": {"reward": of_the_end, "missing_eos_penalty": 0.0},
    "running moments": {"reward": Normalise({"graded": graded}), **RLOO},
    "a judge that pads on the right": {"reward": judge("right")},
    "BOS": {"alter": with_bos, "prompts": [p for p in PROMPTS if p[:2] != "a "], "rows": 4},
    "no unknown token": {"alter": lambda model, tokenizer: setattr(tokenizer, "unk_token", None)},
    "messages": {
        "alter": with_template,
        "prompts": [[{"role": "user", "content": p}] for p in PROMPTS],
    },
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_looks_like_it_but_is_not_broken_passes(opened, name):
    assert reported(results_of(opened(**HEALTHY[name]))) == {}


REFUSED = {
    "no run at runs/bsae": {"model": "runs/bsae"},
    "no file at prompts.jsnl": {"data": "prompts.jsnl"},
    "more than the model's context": {"max_new_tokens": 48},
    "prompt 0 has no tokens": {
        "alter": lambda _, tokenizer: setattr(
            tokenizer._tokenizer, "normalizer", normalizers.Replace("~", "")
        ),
        "prompts": ["~", *PROMPTS],
    },
    "no run at runs/othr": {"reference": "runs/othr"},
    "unknown reward 'lenght'": {"reward": "lenght"},
    "no chat template": {"prompts": [[{"role": "user", "content": p}] for p in PROMPTS]},
    "temperature must be at least": {"temperature": 0.0},
    "rows must be at least 1": {"rows": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_training_refuses_is_refused_at_once(opened, message):
    with pytest.raises(ValueError, match=message):
        opened(**REFUSED[message])


# Another model as the reference.


def saved_reference(trained, tmp_path, factor=1.0, texts=TEXTS):
    tokenizer = models.train_tokenizer(texts, "word")
    other = tiny_lm("llama", tokenizer, seed=4, spread=0.1)
    if factor != 1.0:
        other = copy.deepcopy(trained["llama"][0])
        other.get_output_embeddings().weight.data *= factor
    models.save(tmp_path / "other", other, tokenizer)
    return str(tmp_path / "other")


def test_the_kl_to_another_reference_is_measured(opened, trained, tmp_path):
    context = opened(reference=saved_reference(trained, tmp_path))
    results, done, kl = results_of(context), context.completions, 0.0
    assert reported(results) == {}
    for row in range(len(done.texts)):
        ours, tokens, _ = alone(context.policy, done, row)
        theirs = alone(context.reference, done, row)[0]
        kl += float((ours - theirs).gather(1, tokens[:, None]).sum()) / len(done.texts)
    assert results["KL at the start"].measured == f"{kl:.3g} nats per completion" and kl > 0


def test_a_reference_far_away(opened, trained, tmp_path):
    results = results_of(opened(reference=saved_reference(trained, tmp_path, factor=-6)))
    assert reported(results) == {"KL at the start": "warn"}
    assert "--kl_coef" in results["KL at the start"].advice


@pytest.mark.parametrize("texts", [["a film with a plot", *TEXTS[1:]], [*TEXTS, "plot " * 9]])
def test_a_reference_with_other_tokens(opened, trained, tmp_path, texts):
    """Fewer tokens, or the same ones in another order."""
    results = results_of(opened(reference=saved_reference(trained, tmp_path, texts=texts)))
    assert reported(results) == {"reference tokens": "fail"}
    assert "--reference" in results["reference tokens"].advice
    assert results["KL at the start"].measured == "the reference has other tokens"
    assert results["time"].measured == "the reference has other tokens"


# What is left out, and how often the reward is called.


@pytest.mark.parametrize(
    ("case", "skipped"),
    [
        (
            "nan in llama",
            {"dropout off": "a weight is not finite", "time": "a weight is not finite"},
        ),
        ("noise", {"left padding": "evaluations differ each time"}),
        ("random", dict.fromkeys(("order and batch", "sees the end"), "scores differ each time")),
        ("error", dict.fromkeys(("spread", "length", "time"), "error in 'valid scores'")),
        ("only None", {"spread": "the reward applies to no row"}),
        ("constant", {"EOS gradient": "all completions score the same"}),
        ("endless", {"EOS gradient": "no completion of the step ended by EOS"}),
        ("memory", {"time": "a step needs more memory than there is"}),
    ],
)
def test_checks_are_skipped_if_what_they_need_is_broken(opened, monkeypatch, case, skipped):
    case = CASES[case]
    context = opened(case.kind, case.alter, case.reward, **case.options)
    if case.after:
        case.after(context, monkeypatch)
    results = results_of(context)
    assert {n: results[n].measured for n in skipped} == skipped
    assert {results[n].status for n in skipped} == {"skip"}


def test_checks_of_the_reward_are_skipped_without_one(opened, monkeypatch):
    context = opened(reward="runs/reward")  # the default, which is not there
    results = run_checks(context)
    reasons = {r.measured for r in results if r.group == "reward"}
    assert reasons == {"no reward: give --reward"}
    assert results[-2].measured.endswith(", of random scores")
    assert not [r for r in results if r.status in ("warn", "fail")]


def test_a_check_that_raises_fails_and_the_other_groups_go_on(opened, monkeypatch):
    def broken(context):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(broken, "__module__", model.__name__)
    monkeypatch.setattr(model, "broken", broken, raising=False)
    results = results_of(opened())
    assert reported(results) == {"broken": "fail"}
    assert results["broken"].advice == "ZeroDivisionError: by nothing"


def test_the_reward_is_called_few_times(opened):
    sizes = []

    def counted(completions, **_):
        sizes.append(len(completions))
        return graded(completions)

    run_checks(opened(reward=counted))
    # 8 samples: as they are, again, backwards, each alone, ended otherwise; then three rollouts.
    assert sum(sizes) == 5 * 8 + (8 + 2 + 8)


def test_running_moments_are_restored(opened):
    reward = Normalise({"graded": graded})
    context = opened(reward=reward)
    before = reward.state_dict()
    context.score([0, 1, 2])
    assert reward.state_dict() == before
    context.trainer.reward(prompts=["a"], completions=["b"], finished=[True])
    assert reward.state_dict() != before


@pytest.mark.parametrize(("same", "status"), [(46, "warn"), (44, "pass")])
def test_a_reward_that_seldom_distinguishes(same, status):
    scores = [5.0] * same + [float(i) for i in range(50 - same)]  # 92 % or 88 % are 5
    context = SimpleNamespace(
        scores=scores,
        numbers=torch.tensor(scores),
        completions=SimpleNamespace(prompts=[str(i) for i in range(50)]),
    )
    result = spread(context)
    assert result.status == status and ("--samples_per_prompt" in result.advice) is (same == 46)


def test_memory_is_counted_by_hand(opened, trained):
    parameters = sum(p.numel() for p in trained["llama"][0].parameters())
    head = 16 + 1
    assert opened().trainer.bytes_needed() == {
        "weights": 4 * (parameters + head),
        "gradient": 4 * (parameters + head),
        "Adam": 8 * (parameters + head),
        "reference": 4 * parameters,
    }
    assert "reference" not in opened(lora_rank=2).trainer.bytes_needed()


def test_a_long_iteration_is_measured_on_some_of_its_rows(opened, monkeypatch):
    monkeypatch.setattr(measure, "LONGEST", 0.0)
    context = opened(rows=12)
    trainer, iteration = context.trainer, context.iteration
    assert iteration.rows == 3
    assert iteration.seconds == {n: s * 4 for n, s in trainer.stage_seconds.items()}
    assert set(iteration.peak_bytes) == set(iteration.seconds)
    assert min(iteration.peak_bytes.values()) > 1e6
    assert opened(**{**RLOO, "rows": 24}).iteration.rows == 4  # whole groups


def test_the_peak_memory_is_that_of_the_stage(opened):
    trainer = opened().trainer
    with trainer.timed("much"):
        torch.ones(30_000_000).sum()
    with trainer.timed("little"):
        pass
    assert trainer.stage_bytes["much"] > trainer.stage_bytes["little"] + 60e6
