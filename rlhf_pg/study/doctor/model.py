"""Checks of the model itself, its critic and its reference."""

from pathlib import Path

from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import models
from rlhf_pg.language.rollout import reference_logprobs
from rlhf_pg.study.doctor.finding import Check, Finding, Missing, Status, judged, small
from rlhf_pg.study.doctor.patient import Patient

FAR = 20.0  # nats per completion; training seldom goes farther than 10
NEUTRAL = {  # what leaves the model's distribution alone
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


def opens(patient: Patient) -> Finding:
    """The model and its tokenizer can be loaded."""
    model, _ = patient.opened.made()
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    said = f"{type(model).__name__}, {count:,} parameters, {' and '.join(kinds)}"
    return Finding("pass", said + (", tied embeddings" if tied else ""), value=count)


def parameters_finite(patient: Patient) -> Finding:
    """No weight is NaN or infinite; one of them would spoil every probability."""
    bad = patient.bad_parameters()
    count = len(list(patient.model.parameters()))
    return judged(
        not bad,
        f"{len(bad)} of {count} tensors",
        "0 with NaN",
        f"{_some(bad)}: a NaN or an infinity was saved; take an earlier checkpoint, or fine-tune "
        "again with a lower --lr",
        value=len(bad),
    )


def dropout_off(patient: Patient) -> Finding:
    """Nothing is dropped while the policy is evaluated, or probabilities change by chance."""
    patient.policy.train()  # as a training loop would; a policy stays in evaluation all the same
    modules = list(patient.policy.named_modules())
    some = [(name, m) for name, m in modules if isinstance(getattr(m, "p", None), float)]
    can = [(name, module) for name, module in some if module.p > 0]
    on = [name for name, module in can if module.training]
    return judged(
        not on,
        f"{len(on)} on, {len(can)} with p > 0",
        "0 on",
        f"{_some(on)}: dropout makes old and new probabilities differ; set p to 0 in the model's "
        "config (attn_pdrop, attention_dropout, ...) and save it",
        value=len(on),
    )


def same_answer_twice(patient: Patient) -> Finding:
    """Two evaluations of the same tokens agree bit for bit."""
    value = patient.unsteadiness.made()
    return judged(
        value == 0,
        small(value),
        "0",
        "the model draws something on its own in every evaluation (dropout that model.eval() does "
        "not turn off, noise, a random route): take it out of its forward",
        value=value,
    )


def value_head(patient: Patient) -> Finding:
    """The critic says 0 of every state at first, and so adds no error of its own."""
    if patient.policy.critic == "none":
        raise Missing(f"{patient.config.algorithm} has no critic")
    largest = float(patient.completions.values.abs().max())
    saved = Path(models.model_folder(patient.config.model), "value_head.safetensors").is_file()
    return judged(
        largest == 0,
        f"max |V| {small(largest)}" + (", a saved head is there" if saved else ""),
        "0 at first",
        "a critic that is not zero at first biases the first advantages: use --critic shared, "
        "whose head begins at zero",
        "warn",
        largest,
    )


def reference_tokens(patient: Patient) -> Finding:
    """A named reference reads the same tokens: the KL compares the two token by token."""
    patient.named.made()
    differ = patient.differing_tokens()
    return judged(
        differ == 0,
        f"{differ:,} of {len(patient.tokenizer):,} tokens differ",
        "0",
        "the KL compares token by token: give a --reference with the policy's tokenizer, or leave "
        "it out, and a copy of the policy stands in",
        value=differ,
    )


def kl_at_the_start(patient: Patient) -> Finding:
    """The policy begins at its reference: KL(policy || reference) is exactly 0."""
    named = patient.config.reference
    if named is not None and patient.differing_tokens():
        raise Missing("the reference has other tokens")
    done = patient.completions
    theirs = reference_logprobs(patient.reference, done)
    ours = reference_logprobs(patient.policy, done)
    drift = zero_padding(ours - theirs, done.mask)
    largest, kl = float(drift.abs().max()), float(drift.sum(1).mean())
    if named is not None and largest > 0:
        price = patient.config.kl_coef * kl
        remedy = (
            f"the policy begins far from the reference, at a penalty of {price:.3g} a completion "
            "that drowns the score: leave --reference out, or lower --kl_coef"
        )
        said = f"{kl:.3g} nats per completion, another model"
        far = kl > FAR
        status: Status = "warn" if far else "note"
        return Finding(status, said, f"at most {FAR:g}", remedy if far else "", kl)
    return judged(
        largest == 0,
        f"{small(largest)} nats",
        "0",
        "the reference is a copy and still answers otherwise: look for state that the model keeps "
        "between calls, or give --reference",
        value=largest,
    )


def generation_config(patient: Patient) -> Finding:
    """What generate() would cut off the distribution; here, nothing is."""
    options = getattr(patient.model, "generation_config", None)
    found = {name: getattr(options, name, None) for name in NEUTRAL}
    bent = {n: x for n, x in found.items() if x is not None and x != NEUTRAL[n]}
    if bent:
        said = ", ".join(f"{name} {x:g}" for name, x in bent.items()) + " set"
    elif getattr(options, "top_k", None) is None:
        said = "none set; generate() would add top_k 50"
    else:
        said = "none set"
    return Finding(
        "note",
        said,
        "not used here",
        "generate() of transformers bends the distribution with these, and training here never "
        "does: to compare texts, call it with do_sample=True, top_k=0, top_p=1.0, temperature="
        f"{patient.config.temperature:g}"
        if bent
        else "",
    )


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


CHECKS: dict[str, Check] = {
    "opens": opens,
    "parameters finite": parameters_finite,
    "dropout off": dropout_off,
    "same answer twice": same_answer_twice,
    "critic begins at zero": value_head,
    "reference's tokens": reference_tokens,
    "KL to the reference": kl_at_the_start,
    "generation settings": generation_config,
}
