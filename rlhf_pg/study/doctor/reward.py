"""Checks that the reward is a function of the text, on samples of the model."""

from typing import Any

from rlhf_pg.study.doctor.finding import Check, Finding, Missing, judged, small
from rlhf_pg.study.doctor.patient import Patient, Score

SAME = 1e-4  # of two scores of one text, relative to the largest score where that is above 1


def opens(patient: Patient) -> Finding:
    """The reward can be loaded."""
    patient.reward.made()
    return Finding("pass", str(patient.spec))


def answers(patient: Patient) -> Finding:
    """The reward gives a finite number, or None, for every completion."""
    scores = patient.scores.made()
    return Finding("pass", f"{len(scores)} of {len(scores)} scores finite or None", "all")


def applies(patient: Patient) -> Finding:
    """No completion is left without a score."""
    scores = patient.scores()
    share = sum(score is None for score in scores) / len(scores)
    return judged(
        share == 0,
        f"None for {share:.0%}",
        "0%",
        "where a reward answers None (does not apply) the score counts as 0: add a part that "
        "answers for every row, as in --reward 'A + 0.1*length'",
        "warn" if share < 1 else "fail",
        share,
    )


def same_score_twice(patient: Patient) -> Finding:
    """The same texts score the same when asked again."""
    value = difference(patient.scores(), patient.again()[0])
    return judged(
        value <= allowed(patient),
        f"{small(value)} apart",
        "1e-4",
        "the reward draws something, so the same text is worth another score each time: call "
        "model.eval() in it, and give whatever it draws from a seed of its own",
        value=value,
    )


def order_and_batch(patient: Patient) -> Finding:
    """A score depends on the text alone, not on its place or the batch's padding."""
    scores = steady(patient)
    count = len(scores)
    backwards = list(reversed(range(count)))
    order = difference(list(reversed(scores)), patient.ask(backwards))
    batch = 0.0
    if not _remembers(patient):
        few = range(0, count, max(1, count // 8))
        batch = max(difference([scores[i]], patient.ask([i])) for i in few)
    padding = (
        'pad on the right (tokenizer.padding_side = "right"), pass attention_mask, and read the '
        "score at the last real token (pad_token_id other than EOS, set in the model's config)"
    )
    if order > allowed(patient):
        remedy = (
            "a row's score changes with its place in the batch: return the scores in the order of "
            f"the rows; and where a model gives them, {padding}"
        )
    else:
        remedy = (
            "a text alone scores differently than among others, as when padding is read or a "
            f"batch is centred: subtract nothing of the batch; and {padding}"
        )
    value = max(order, batch)
    return judged(value <= allowed(patient), f"{small(value)} apart", "1e-4", remedy, value=value)


def own_tokenizer(patient: Patient) -> Finding:
    """A reward model can tell EOS from padding, and so whether a text ended."""
    found = list(_tokenizers(patient.reward()))
    if not found:
        raise Missing("no tokenizer inside")
    same = [name for name, t in found if t.pad_token_id in (None, t.eos_token_id)]
    sides = ", ".join(sorted({t.padding_side for _, t in found}))
    return judged(
        not same,
        f"pad {'is EOS' if same else 'is not EOS'}, side {sides}",
        "pad is not EOS",
        f"{', '.join(same)}: where pad is EOS, a score read at the last token that is no pad "
        "cannot see whether the text ended; give it a pad_token of its own and save it",
        "warn",
    )


def speed(patient: Patient) -> Finding:
    """Completions scored in a second."""
    again, seconds = patient.again()
    value = len(again) / max(1e-9, seconds)
    return Finding("note", f"{value:,.0f} completions per second", "measured", value=value)


def steady(patient: Patient) -> list[Score]:
    """The scores of a reward that says the same thing twice; Missing of one that does not."""
    scores = patient.scores()
    if difference(scores, patient.again()[0]) > allowed(patient):
        raise Missing("the reward gives another score each time")
    return scores


def difference(a: list[Score], b: list[Score]) -> float:
    """max |difference|; infinite where one applies to a row and the other does not."""
    pairs = zip(a, b, strict=True)
    return max(
        0.0 if x is None and y is None else abs(x - y) if x is not None and y is not None
        else float("inf")
        for x, y in pairs
    )  # fmt: skip


def allowed(patient: Patient) -> float:
    """How far apart two scores of the same text may be, for rounding."""
    return SAME * max([1.0, *(abs(s) for s in patient.scores() if s is not None)])


def _remembers(patient: Patient) -> bool:
    """Whether the reward keeps running moments, so that its scores depend on the whole batch."""
    reward = patient.reward()
    return bool(hasattr(reward, "state_dict") and reward.state_dict())


def _tokenizers(reward: Any, name: str = "reward") -> list[tuple[str, Any]]:
    """(name, tokenizer) of a reward and of the members it is composed of."""
    found = [(name, reward.tokenizer)] if hasattr(reward, "tokenizer") else []
    for below, member in getattr(reward, "members", {}).items():
        found += _tokenizers(member, below)
    return found


CHECKS: dict[str, Check] = {
    "opens": opens,
    "answers": answers,
    "applies": applies,
    "same score twice": same_score_twice,
    "order and batch": order_and_batch,
    "its tokenizer": own_tokenizer,
    "speed": speed,
}
