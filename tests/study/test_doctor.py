"""The doctor finds what was made sick on purpose, that alone, and leaves the healthy in peace."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
import torch
from tokenizers import normalizers, processors
from torch import nn

from reward_models.reward_model import RewardModel
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import models
from rlhf_pg.study.doctor import DoctorConfig, Patient, examine
from rlhf_pg.study.doctor import rehearsal as rehearsing
from rlhf_pg.study.doctor.examination import GROUPS
from rlhf_pg.study.doctor.scores import spread

from ..language.conftest import ARCHITECTURES, TEXTS, alone, tiny_lm

CUTS = ((2, 3, 5, 7), (1, 4, 6, 8), (2, 3, 5, 7))  # no prompt twice
PROMPTS = [" ".join(text.split()[:n]) for text, cuts in zip(TEXTS, CUTS, strict=True) for n in cuts]


@pytest.fixture(scope="module")
def healthy():
    """Each architecture with its tokenizer, after a few passes over three sentences."""
    torch.set_num_threads(1)
    made = {}
    for kind in ARCHITECTURES:
        tokenizer = models.train_tokenizer(TEXTS, "word")
        model = tiny_lm(kind, tokenizer, spread=0.1)
        rows = [ids + [tokenizer.eos_token_id] for ids in models.encode(tokenizer, TEXTS)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(40):
            optimizer.zero_grad()
            for ids in map(torch.tensor, rows):
                model(input_ids=ids[None], labels=ids[None]).loss.backward()
            optimizer.step()
        made[kind] = (model.eval(), tokenizer)
    return made


@pytest.fixture(params=ARCHITECTURES)
def each(request, healthy):
    return copy.deepcopy(healthy[request.param])


@pytest.fixture
def gpt2(healthy):
    return copy.deepcopy(healthy["gpt2"])


@pytest.fixture
def llama(healthy):
    return copy.deepcopy(healthy["llama"])


def graded(prompts, completions, **_):
    """A reward with nothing wrong with it: of the text alone, graded."""
    return [0.3 * len(set(text.split())) + 0.01 * len(text) for text in completions]


@pytest.fixture
def patient(tmp_path):
    def make(pair, reward=graded, prompts=PROMPTS, **options):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
        defaults = {"rows": 8, "max_new_tokens": 12, "data": str(path), "device": "cpu"}
        config = DoctorConfig(
            model="tiny", reward="mine" if reward else None, **(defaults | options)
        )
        return Patient(config, lambda _: reward, lambda _: pair)

    return make


def findings(patient):
    return {(f.group, f.name): f for f in examine(patient)}


def ill(patient):
    """What warns or fails, with its status; each says what to do."""
    found = [f for f in examine(patient) if f.status in ("warn", "fail")]
    assert all(f.remedy for f in found)
    return {f"{f.group}, {f.name}": f.status for f in found}


def remedy(patient, group, name):
    return findings(patient)[group, name].remedy


# --- the healthy


def test_a_healthy_model_of_each_architecture_passes(each, patient):
    checked = findings(patient(each))
    assert {
        k: (f.status, f.remedy) for k, f in checked.items() if f.status in ("warn", "fail")
    } == {}
    assert [k for k, f in checked.items() if f.status == "skipped"] == [
        ("model", "reference's tokens"),  # a copy
        ("reward", "its tokenizer"),  # a plain function
    ]
    assert checked["step", "EOS is trained"].value > 0
    assert checked["model", "sampling = scoring"].value < 1e-5


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo"])
def test_a_healthy_model_passes_for_algorithms_without_a_critic(llama, patient, algorithm):
    one = patient(llama, algorithm=algorithm, rows=8 if algorithm == "reinforce" else 16)
    checked = findings(one)
    assert not [k for k, f in checked.items() if f.status in ("warn", "fail")]
    assert checked["model", "KL to the reference"].value == 0
    if algorithm != "reinforce":
        assert one.train.samples_per_prompt == 4


def test_nothing_of_the_model_is_changed(llama, patient):
    before = copy.deepcopy(llama[0].state_dict())
    examine(patient(llama))
    after = llama[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_positions_tell_gpt2_from_rope(healthy, patient):
    off = {
        kind: findings(patient(healthy[kind]))["model", "without position_ids"].value
        for kind in ("gpt2", "llama")
    }
    assert off["gpt2"] > 1e-2 and off["llama"] < 1e-4


# --- the model


def test_a_misspelt_model_is_the_one_failure(patient):
    one = patient(None)
    one.opened.make = lambda: models.load("runs/bsae")
    checked = findings(one)
    assert [k for k, f in checked.items() if f.status == "fail"] == [("model", "opens")]
    assert "no run at runs/bsae" in checked["model", "opens"].remedy
    assert checked["data", "reads"].status == checked["reward", "opens"].status == "pass"
    assert checked["step", "gradient"].measured == "the model does not open"


def test_a_nan_parameter(each, patient):
    name, parameter = list(each[0].named_parameters())[3]
    parameter.data.view(-1)[1] = float("nan")
    one = patient(each)
    assert ill(one) == {"model, parameters finite": "fail"}
    assert name in remedy(one, "model", "parameters finite")


class Forced(nn.Module):
    """Draws in every forward, in evaluation too."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.1, training=True)


class Stubborn(nn.Dropout):
    """A dropout that no eval() turns off."""

    def train(self, mode=True):
        return super().train(True)


def test_dropout_that_is_always_on(gpt2, patient):
    gpt2[0].transformer.drop = Forced()
    assert ill(patient(gpt2)) == {"model, same answer twice": "fail"}
    gpt2[0].transformer.drop = Stubborn(0.2)
    one = patient(gpt2)
    assert ill(one) == {"model, same answer twice": "fail", "model, dropout off": "fail"}
    assert "transformer.drop" in remedy(one, "model", "dropout off")


def test_dropout_that_evaluation_turns_off_passes(gpt2, patient):
    gpt2[0].transformer.drop = nn.Dropout(0.3).train()
    one = patient(gpt2)
    assert ill(one) == {}
    assert "with p > 0" in findings(one)["model", "dropout off"].measured


def test_a_critic_that_is_not_zero(llama, patient):
    one = patient(llama)
    one.policy.value_head.bias.data.fill_(0.5)
    assert ill(one) == {"model, critic begins at zero": "warn"}


def test_a_reference_that_drifts(llama, patient):
    one = patient(llama)
    one.reference.temperature = 0.9
    assert ill(one) == {"model, KL to the reference": "fail"}


def test_another_reference(llama, patient, tmp_path):
    other = tiny_lm("llama", llama[1], seed=4, spread=0.1)
    models.save(tmp_path / "other", other, llama[1])
    one = patient(llama, reference=str(tmp_path / "other"))
    assert ill(one) == {}
    kl = findings(one)["model", "KL to the reference"]
    done, by_hand = one.completions, 0.0
    for row in range(len(done.texts)):
        ours, tokens, _ = alone(one.policy, done, row)
        theirs = alone(one.reference, done, row)[0]
        by_hand += float((ours - theirs).gather(1, tokens[:, None]).sum()) / len(done.texts)
    assert kl.status == "note" and kl.value == pytest.approx(by_hand, rel=1e-4) and by_hand > 0


def test_a_reference_far_away(llama, patient, tmp_path):
    other = copy.deepcopy(llama[0])
    other.get_output_embeddings().weight.data *= -6
    models.save(tmp_path / "other", other, llama[1])
    one = patient(llama, reference=str(tmp_path / "other"))
    assert ill(one) == {"model, KL to the reference": "warn"}
    assert "--kl_coef" in remedy(one, "model", "KL to the reference")


def test_a_reference_with_other_tokens_or_none_at_all(llama, patient, tmp_path):
    other = models.train_tokenizer(["a film with a plot", *TEXTS[1:]], "word")
    models.save(tmp_path / "other", tiny_lm("llama", other), other)
    one = patient(llama, reference=str(tmp_path / "other"))
    assert ill(one) == {"model, reference's tokens": "fail"}
    assert findings(one)["model", "KL to the reference"].status == "skipped"
    one = patient(llama, reference=str(tmp_path / "othr"))
    assert ill(one) == {"model, reference's tokens": "fail"}
    assert "othr" in remedy(one, "model", "reference's tokens")


def test_generation_settings_of_other_tools_are_named(llama, patient):
    llama[0].generation_config.top_k = 7
    llama[0].generation_config.temperature = 0.6
    said = findings(patient(llama))["model", "generation settings"].measured
    assert "top_k 7" in said and "temperature 0.6" in said


def test_positions_ignored_by_the_model(gpt2, patient):
    forward = gpt2[0].forward
    gpt2[0].forward = lambda position_ids=None, **rest: forward(**rest)
    assert ill(patient(gpt2)) == {"model, left padding": "fail"}


@pytest.mark.parametrize(("shift", "status"), [(0.1, "fail"), (1e-4, "warn")])
def test_a_cache_that_changes_the_answer(llama, patient, shift, status):
    forward = llama[0].forward

    def other_with_cache(past_key_values=None, **rest):
        out = forward(past_key_values=past_key_values, **rest)
        if past_key_values is not None:
            out.logits[..., 5] += shift
        return out

    llama[0].forward = other_with_cache
    one = patient(llama)
    assert ill(one) == {"model, sampling = scoring": status}
    assert ("cache" in remedy(one, "model", "sampling = scoring")) == (status == "fail")


def test_an_untrained_head(healthy, patient):
    model, tokenizer = copy.deepcopy(healthy["gpt-neox"])
    model.get_output_embeddings().weight.data *= 1e-3
    one = patient((model, tokenizer))
    assert ill(one) == {"model, entropy": "warn"}
    assert "untrained" in remedy(one, "model", "entropy")


def test_a_model_that_is_certain(llama, patient):
    llama[0].get_output_embeddings().weight.data *= 100
    one = patient(llama)
    assert "model, entropy" in ill(one) and "certain" in remedy(one, "model", "entropy")


def test_completions_that_never_end(llama, patient):
    _never_says(llama[0], llama[1].eos_token_id)
    one = patient(llama)
    assert ill(one) == {"model, completions end": "warn"}
    assert findings(one)["step", "EOS is trained"].status == "skipped"


def _never_says(model, token):
    forward = model.forward

    def silenced(**inputs):
        out = forward(**inputs)
        out.logits[..., token] -= 50.0
        return out

    model.forward = silenced


# --- the tokenizer


def test_pad_is_eos(each, patient):
    each[1].pad_token = each[1].eos_token
    assert ill(patient(each)) == {"tokenizer, pad is not EOS": "warn"}


def test_the_models_eos_is_another(llama, patient):
    llama[0].config.eos_token_id = llama[0].generation_config.eos_token_id = 5
    assert ill(patient(llama)) == {"tokenizer, EOS": "warn"}


def test_rows_that_are_no_token(llama, patient):
    model = tiny_lm("llama", llama[1], spread=0.1, vocab_size=len(llama[1]) + 8)
    assert "tokenizer, vocabulary" in ill(patient((model, llama[1])))
    for token in range(len(llama[1]), len(llama[1]) + 8):
        _never_says(model, token)
    assert "tokenizer, vocabulary" not in ill(patient((model, llama[1])))


def test_two_bos(llama, patient):
    tokenizer = llama[1]
    tokenizer.bos_token = "a"
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="a $A", special_tokens=[("a", tokenizer.convert_tokens_to_ids("a"))]
    )
    assert "tokenizer, BOS" in ill(patient(llama))  # some prompts begin with "a" already
    once = [p for p in PROMPTS if not p.startswith("a ")]
    assert "tokenizer, BOS" not in ill(patient(llama, prompts=once))


def test_unknown_words(llama, patient):
    one = patient(llama, prompts=[*PROMPTS, "the zebra is", "the quagga"])
    assert ill(one) == {"tokenizer, unknown words": "warn"}
    assert findings(one)["tokenizer", "unknown words"].value == pytest.approx(2 / 56, abs=0.01)
    assert "zebra" in remedy(one, "tokenizer", "unknown words")


def test_nothing_is_unknown_to_a_tokenizer_of_bytes(llama, patient):
    llama[1].unk_token = None
    assert findings(patient(llama))["tokenizer", "unknown words"].value == 0


def test_a_tokenizer_that_lowers(llama, patient):
    llama[1]._tokenizer.normalizer = normalizers.Lowercase()
    one = patient(llama, prompts=[*PROMPTS, "The film", "The PLOT is"])
    assert ill(one) == {"tokenizer, round trip": "warn"}


def test_eos_spelt_out_in_a_prompt(llama, patient):
    one = patient(llama, prompts=[*PROMPTS, "the film <eos> is"])
    assert ill(one) == {"tokenizer, special tokens in text": "warn"}
    assert "row 12" in remedy(one, "tokenizer", "special tokens in text")


def test_a_chat_template_wants_messages(llama, patient):
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    llama[1].chat_template = template
    assert ill(patient(llama)) == {"tokenizer, chat template": "warn"}
    messages = [[{"role": "user", "content": p}] for p in PROMPTS]
    assert ill(patient(llama, prompts=messages)) == {}
    llama[1].chat_template = None
    assert ill(patient(llama, prompts=messages)) == {"data, reads": "fail"}


# --- the data


def test_prompts_that_do_not_fit(llama, patient):
    long = " ".join(["the film is good"] * 7)
    one = patient(llama, prompts=[*PROMPTS, long], max_new_tokens=22)
    assert ill(one) == {"data, fits the context": "fail"}
    assert "--max_new_tokens to 20" in remedy(one, "data", "fits the context")
    assert "row 12" in remedy(one, "data", "fits the context")
    none_fits = patient(llama, max_new_tokens=48)
    assert ill(none_fits) == {"data, fits the context": "fail"}
    assert findings(none_fits)["step", "gradient"].measured == "no prompt fits the model's context"


def test_data_that_cannot_be_read(llama, patient):
    one = patient(llama, data="prompts_of_mine.jsonl")
    assert ill(one) == {"data, reads": "fail"}
    assert "no file at prompts_of_mine.jsonl" in remedy(one, "data", "reads")
    assert ill(patient(llama, prompts=[*PROMPTS, " "])) == {"data, reads": "fail"}


def test_a_prompt_without_tokens(llama, patient):
    llama[1]._tokenizer.normalizer = normalizers.Replace("~", "")
    one = patient(llama, prompts=["~", *PROMPTS])
    assert ill(one) == {"data, prompts not empty": "fail"}
    assert one.usable()["prompt"] == PROMPTS


def test_one_prompt_far_longer_than_the_rest(llama, patient):
    one = patient(llama, prompts=[*PROMPTS, " ".join(["the"] * 35)])
    assert ill(one) == {"data, lengths alike": "warn"}


def test_repeated_prompts(llama, patient):
    one = patient(llama, prompts=[*PROMPTS, *PROMPTS[:3]])
    assert ill(one) == {"data, repeats": "warn"}
    assert findings(one)["data", "repeats"].value == pytest.approx(3 / 15)


def test_too_few_prompts(llama, patient):
    one = patient(llama, prompts=PROMPTS[:5])
    assert ill(one) == {"data, enough prompts": "warn"}
    assert "--rows to 5" in remedy(one, "data", "enough prompts")


# --- the reward


def random_scores(prompts, completions, **_):
    return [random.random() for _ in completions]


def constant(prompts, completions, **_):
    return [0.1] * len(completions)


def of_the_prompt(prompts, completions, **_):
    return [0.1 * len(p) for p in prompts]


def of_the_place(prompts, completions, **_):
    return [score + row for row, score in enumerate(graded(prompts, completions))]


def centred(prompts, completions, **_):
    scores = graded(prompts, completions)
    return [score - sum(scores) / len(scores) for score in scores]


def sometimes_nan(prompts, completions, **_):
    return [float("nan") if i == 3 else s for i, s in enumerate(graded(prompts, completions))]


def sometimes_none(prompts, completions, **_):
    return [
        None if len(p) < 10 else s
        for p, s in zip(prompts, graded(prompts, completions), strict=True)
    ]


def binary(prompts, completions, **_):
    return [float(len(text) % 2) for text in completions]


def too_few(prompts, completions, **_):
    return [1.0, 2.0]


def raising(prompts, completions, **_):
    raise KeyError("colour")


def far_away(prompts, completions, **_):
    return [100.0 + score for score in graded(prompts, completions)]


def huge(prompts, completions, **_):
    return [100.0 * (score - 2.0) for score in graded(prompts, completions)]


SICK = {
    random_scores: ("same score twice", "fail", "draws"),
    constant: ("spread", "fail", "the same"),
    of_the_prompt: ("spread", "fail", "prompt alone"),
    of_the_place: ("order and batch", "fail", "its place"),
    centred: ("order and batch", "fail", "centred"),
    sometimes_nan: ("answers", "fail", "gave nan to row 3"),
    sometimes_none: ("applies", "warn", "counts as 0"),
    binary: ("spread", "warn", "two values"),
    too_few: ("answers", "fail", "list of"),
    raising: ("answers", "fail", "colour"),
    far_away: ("scale", "warn", "normalise"),
    huge: ("scale", "warn", "--kl_coef"),
}


@pytest.mark.parametrize("reward", SICK, ids=lambda f: f.__name__)
def test_a_sick_reward(llama, patient, reward):
    name, status, words = SICK[reward]
    one = patient(llama, reward=reward)
    assert ill(one) == {f"reward, {name}": status}
    assert words in remedy(one, "reward", name)


class Judge:
    """A sequence classifier as a reward, padded on a side of one's choice, without a mask."""

    def __init__(self, tokenizer, side):
        self.model = RewardModel.from_base(tiny_lm("gpt2", tokenizer), tokenizer).model
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.padding_side = side

    @torch.no_grad()
    def __call__(self, prompts, completions, **_):
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        inputs = self.tokenizer(texts, padding=True, return_tensors="pt")
        return self.model(input_ids=inputs["input_ids"]).logits[:, 0]


def test_what_needs_a_steady_reward_is_left_out_for_one_that_draws(llama, patient):
    checked = findings(patient(llama, reward=random_scores))
    for name in ("order and batch", "sees the end"):
        assert checked["reward", name].status == "skipped"


def test_a_costly_reward_is_asked_few_times(llama, patient):
    asked = []

    def counted(prompts, completions, **_):
        asked.append(len(completions))
        return graded(prompts, completions)

    examine(patient(llama, reward=counted))
    # 8 samples: as they are, again, backwards, each alone, ended otherwise; then three rehearsals.
    assert sum(asked) == 5 * 8 + (8 + 4 + 8)


def test_a_judge_that_reads_the_padding(llama, patient):
    one = patient(llama, reward=Judge(llama[1], "left"))
    assert ill(one) == {"reward, order and batch": "fail"}
    assert 'padding_side = "right"' in remedy(one, "reward", "order and batch")
    assert ill(patient(llama, reward=Judge(llama[1], "right"))) == {}


def test_a_judge_whose_pad_is_eos(llama, patient):
    judge = Judge(llama[1], "right")
    judge.tokenizer.pad_token = judge.tokenizer.eos_token
    judge.model.config.pad_token_id = judge.tokenizer.pad_token_id
    assert ill(patient(llama, reward=judge)) == {"reward, its tokenizer": "warn"}


def test_an_end_that_nothing_sees(llama, patient):
    assert ill(patient(llama, missing_eos_penalty=0)) == {"reward, sees the end": "warn"}

    def ending(prompts, completions, finished, **_):
        scores = graded(prompts, completions)
        return [score + end for score, end in zip(scores, finished, strict=True)]

    one = patient(llama, reward=ending, missing_eos_penalty=0)
    assert ill(one) == {} and findings(one)["reward", "sees the end"].value == pytest.approx(1)
    # That it sees the end is said, though a price is paid for a missing one besides.
    priced = findings(patient(llama, reward=ending, missing_eos_penalty=1))
    assert priced["reward", "sees the end"].measured.startswith("up to 1")


@pytest.mark.parametrize(("same", "status"), [(46, "warn"), (44, "pass")])
def test_a_reward_that_seldom_tells_apart(same, status):
    scores = [5.0] * same + [float(i) for i in range(50 - same)]  # 92 % or 88 % are 5
    prompts = [str(i) for i in range(50)]
    one = SimpleNamespace(
        applied=lambda: torch.tensor(scores),
        scores=lambda: scores,
        drawn=lambda: [SimpleNamespace(prompts=prompts)],
    )
    found = spread(one)
    assert found.status == status and ("--samples_per_prompt" in found.remedy) is (same == 46)


def test_longer_is_better(llama, patient):
    def longer(prompts, completions, **_):
        return [0.1 * len(text.split()) for text in completions]

    found = findings(patient(llama, reward=longer))["reward", "length"]
    assert found.value > 0.95 and "longer" in found.remedy

    def shorter(prompts, completions, **_):
        return [-score for score in longer(prompts, completions)]

    found = findings(patient(llama, reward=shorter))["reward", "length"]
    assert found.value < -0.95 and "shorter" in found.remedy


def test_running_moments_are_put_back(llama, patient):
    from reward_models.loading import load_reward

    reward = load_reward("normalise(length)")
    one = patient(llama, reward=reward)
    checked = findings(one)
    assert checked["reward", "same score twice"].status == "pass"
    assert checked["reward", "order and batch"].status == "pass"
    before = reward.state_dict()
    one.ask([0, 1, 2])
    assert reward.state_dict() == before != load_reward("normalise(length)").state_dict()


def test_the_place_is_found_out_with_running_moments_too(llama, patient):
    def remembering(prompts, completions, **_):
        return of_the_place(prompts, completions)

    remembering.state_dict = lambda: {"count": 1}
    remembering.load_state_dict = lambda state: None
    assert ill(patient(llama, reward=remembering)) == {"reward, order and batch": "fail"}


def test_no_reward(llama, patient, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked = findings(patient(llama, reward=None))
    reasons = {f.measured for (group, _), f in checked.items() if group == "reward"}
    assert len(reasons) == 1 and "--reward" in reasons.pop()
    assert checked["step", "gradient"].measured.endswith("random scores")
    assert "reward's time is not in it" in checked["step", "the run takes"].measured


# --- the step


def test_a_frozen_layer(gpt2, patient):
    gpt2[0].transformer.h[1].mlp.requires_grad_(False)
    one = patient(gpt2)
    assert ill(one) == {"step, all parameters learn": "warn"}
    assert findings(one)["step", "all parameters learn"].value == 4
    assert "h.1.mlp" in remedy(one, "step", "all parameters learn")


def test_a_parameter_that_nothing_uses(llama, patient):
    llama[0].model.forgotten = nn.Parameter(torch.ones(3))
    one = patient(llama)
    assert ill(one) == {"step, all parameters learn": "warn"}
    assert "model.forgotten" in remedy(one, "step", "all parameters learn")


def test_a_parameter_whose_gradient_is_zero(llama, patient):
    llama[0].model.idle = nn.Parameter(torch.ones(3))
    forward = llama[0].forward

    def counting_for_nothing(**inputs):
        out = forward(**inputs)
        out.logits = out.logits + 0 * llama[0].model.idle.sum()
        return out

    llama[0].forward = counting_for_nothing
    one = patient(llama)
    assert ill(one) == {"step, all parameters learn": "warn"}
    assert "model.idle" in remedy(one, "step", "all parameters learn")


def test_adapters_are_judged_as_they_begin(llama, patient):
    assert ill(patient(llama, algorithm="reinforce", lora_rank=2)) == {}


def test_a_gradient_far_above_its_clip(llama, patient):
    one = patient(llama, reward=huge, algorithm="reinforce", kl_coef=10)
    assert ill(one) == {"step, gradient": "warn"}


def test_a_mask_that_drops_eos(llama, patient, monkeypatch):
    one = patient(llama)
    original = rehearsing.sample

    def masked_by_pad(policy, tokenizer, *rest):
        done = original(policy, tokenizer, *rest)
        done.mask = done.mask & (done.ids != tokenizer.eos_token_id)
        done.logprobs = zero_padding(done.logprobs, done.mask)
        return done

    monkeypatch.setattr(rehearsing, "sample", masked_by_pad)
    assert ill(one) == {"step, EOS is trained": "fail"}
    assert "ids != pad" in remedy(one, "step", "EOS is trained")


def test_too_little_memory(llama, patient, monkeypatch):
    needed = rehearsing.bytes_needed(patient(llama))
    weights = sum(p.numel() for p in llama[0].parameters())
    head = 16 + 1
    assert needed["all"] == 4 * (5 * weights + 4 * head)  # weights, gradient, 2 of Adam; reference
    for there, status in ((needed["all"] * 1.1, "warn"), (needed["all"] * 0.9, "fail")):
        for module in ("step", "rehearsal"):
            where = f"rlhf_pg.study.doctor.{module}.memory_there"
            monkeypatch.setattr(where, lambda device, there=there: there)
        assert ill(patient(llama))["step, memory"] == status
    assert findings(patient(llama))["step", "the run takes"].status == "skipped"


def test_a_long_iteration_is_scaled_from_a_part(llama, patient, monkeypatch):
    monkeypatch.setattr(rehearsing, "PATIENCE", 0.0)
    one = patient(llama, rows=12, algorithm="reinforce")
    checked = findings(one)
    assert checked["step", "an iteration takes"].limit == "scaled from 3 rows"
    seconds = checked["step", "an iteration takes"].value
    assert checked["step", "the run takes"].value == pytest.approx(100 * seconds)


def test_seconds_lie_on_a_line():
    less, more = {"update": 3.0, "sampling": 2.0}, {"update": 4.0, "sampling": 1.9}
    found = rehearsing.extrapolated(8, less, 16, more, 64)
    assert found == {"update": pytest.approx(10.0), "sampling": pytest.approx(1.9)}
    assert rehearsing.extrapolated(16, {}, 16, more, 64)["update"] == pytest.approx(16.0)


# --- the examination


def test_a_check_that_raises_is_a_failure_and_stops_no_other(llama, patient, monkeypatch):
    def broken(patient):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setitem(GROUPS, "model", {"broken": broken, **GROUPS["model"]})
    one = patient(llama)
    assert ill(one) == {"model, broken": "fail"}
    assert remedy(one, "model", "broken") == "ZeroDivisionError: by nothing"
