"""Checks of the reward, on samples of the model."""

import time
from typing import Any

import torch

from rlhf_pg.study.doctor.finding import Check, Finding, Missing, judged, small
from rlhf_pg.study.doctor.patient import Patient, Score

SAME = 1e-4  # of two scores of one text, relative to the largest score where that is above 1


def opens(patient: Patient) -> Finding:
    """The reward can be loaded."""
    patient.reward.made()
    return Finding("pass", str(patient.spec))


def answers(patient: Patient) -> Finding:
    """It gives a finite number, or None, for every completion."""
    scores = patient.scores.made()
    return Finding("pass", f"{len(scores)} of {len(scores)} scores finite or None", "all")


def applies(patient: Patient) -> Finding:
    """The share of rows it has no answer for."""
    scores = patient.scores()
    share = sum(score is None for score in scores) / len(scores)
    return judged(
        share == 0,
        f"None for {share:.0%}",
        "0 %",
        "where a reward answers None (does not apply) the score counts as 0: add a part that "
        "answers for every row, as in --reward 'A + 0.1*length'",
        "warn" if share < 1 else "fail",
        share,
    )


def same_score_twice(patient: Patient) -> Finding:
    """Asked again, it gives the same scores."""
    value = _difference(patient.scores(), patient.ask())
    return judged(
        value <= _allowed(patient),
        f"{small(value)} apart",
        "1e-4",
        "the reward draws something, so the same text is worth another score each time: call "
        "model.eval() in it, and give whatever it draws from a seed of its own",
        value=value,
    )


def order_and_batch(patient: Patient) -> Finding:
    """A text's score depends on the text: not on its place in the batch, nor on the others."""
    scores = patient.scores()
    if _difference(scores, patient.ask()) > _allowed(patient):
        raise Missing("the reward gives another score each time")
    count = len(scores)
    backwards = list(reversed(range(count)))
    order = _difference(list(reversed(scores)), patient.ask(backwards))
    batch = 0.0
    if not _remembers(patient):
        few = range(0, count, max(1, count // 8))
        batch = max(_difference([scores[i]], patient.ask([i])) for i in few)
    if order > _allowed(patient) and batch <= _allowed(patient):
        remedy = "a row's score changes with its place: return the scores in the order of the rows"
    else:
        remedy = (
            "a text alone scores differently than in a batch, as when padding is read: pad on the "
            'right (tokenizer.padding_side = "right"), pass attention_mask, and read the score at '
            "the last real token (pad_token_id other than EOS, set in the model's config)"
        )
    value = max(order, batch)
    return judged(value <= _allowed(patient), f"{small(value)} apart", "1e-4", remedy, value=value)


def spread(patient: Patient) -> Finding:
    """Completions score differently, those of the same prompt too."""
    scores = patient.applied()
    std, distinct = float(scores.std(correction=0)), scores.unique()
    said, within = f"std {std:.3g}", _within(patient)
    if within is not None:
        said += f", {within:.3g} within a prompt"
    limit = "above 0"
    if std == 0:
        remedy = (
            "every completion scores the same, so there is nothing to learn: look at what "
            "`rlhf-pg sample --reward` prints, and choose a reward that tells them apart"
        )
        return Finding("fail", said, limit, remedy, std)
    if within == 0:
        remedy = (
            "the score depends on the prompt alone, which the policy does not write: the reward "
            "must read `completions`"
        )
        return Finding("fail", said, limit, remedy, within)
    commonest = float(scores.unique(return_counts=True)[1].max()) / len(scores)
    if commonest > 0.9 or std < 1e-3 * max(1.0, float(scores.abs().max())):
        remedy = (
            f"{commonest:.0%} of the scores are the same or nearly: draw several samples of a "
            "prompt (--samples_per_prompt 8), or add a part that is graded"
        )
        return Finding("warn", said, limit, remedy, std)
    return judged(
        len(distinct) > 2,
        said if len(distinct) > 2 else f"{said}, two values",
        limit,
        "a reward of two values teaches nothing where all samples of a prompt agree: use "
        "--algorithm rloo with --samples_per_prompt 4 or more, or add a graded part",
        "warn",
        std,
    )


def sees_the_end(patient: Patient) -> Finding:
    """Whether a completion that ended scores otherwise than one that was cut."""
    count = len(patient.scores())
    ended, cut = (patient.ask(finished=[flag] * count) for flag in (True, False))
    value, price = _difference(ended, cut), patient.config.missing_eos_penalty
    if value <= _allowed(patient) and price > 0:
        said = f"no; a cut one pays --missing_eos_penalty {price:g}"
        return Finding("pass", said, "one of the two", value=value)
    return judged(
        value > _allowed(patient),
        f"up to {value:.3g} apart" if value > _allowed(patient) else "no",
        "one of the two",
        "nothing tells the policy to end its text: set --missing_eos_penalty 1, or let the reward "
        "read the column `finished`",
        "warn",
        value,
    )


def scale(patient: Patient) -> Finding:
    """The mean and spread, beside the KL penalty that is to hold them."""
    scores, beta = patient.applied(), patient.config.kl_coef
    mean, std = float(scores.mean()), float(scores.std(correction=0))
    largest = float(scores.abs().max())
    # The optimum is ref * exp(r / beta) / Z: std / beta is how far, in nats, it tilts the texts.
    tilt = std / beta if beta else 0.0
    said = f"mean {mean:+.3g}, largest {largest:.3g}, std / kl_coef {tilt:.3g}"
    centred = abs(mean) <= 20 * std or abs(mean) <= 1
    far = "far from 0 beside its spread" if not centred else "large beside the KL penalty"
    return judged(
        (centred and tilt <= 50) or std == 0,
        said,
        "ratio at most 50",
        f"the score is {far}, so the critic or the KL does not keep up: scale it, as in --reward "
        "'normalise(REWARD)', clip it (--score_clip 5), or raise --kl_coef",
        "warn",
        tilt,
    )


def length_bias(patient: Patient) -> Finding:
    """Correlation of the score with the completion's length."""
    lengths = patient.drawn()[0].mask.sum(1).tolist()
    pairs = [(n, s) for n, s in zip(lengths, patient.scores(), strict=True) if s is not None]
    if not pairs:
        raise Missing("the reward applies to no row")
    columns = torch.tensor(pairs, dtype=torch.float64).T
    if bool((columns.std(1, correction=0) == 0).any()):
        return Finding("note", "lengths or scores are all the same", "from -1 to 1")
    value = float(torch.corrcoef(columns)[0, 1])
    way = "longer" if value > 0 else "shorter"
    remedy = f"{way} texts score higher: see that training does not learn that alone"
    return Finding(
        "note", f"correlation {value:+.2f}", "from -1 to 1", remedy * (abs(value) > 0.5), value
    )


def own_tokenizer(patient: Patient) -> Finding:
    """Tokenizers inside the reward have a pad token that is not EOS."""
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
    patient.scores()  # warm
    began = time.perf_counter()
    count = len(patient.ask())
    value = count / max(1e-9, time.perf_counter() - began)
    return Finding("note", f"{value:,.0f} completions per second", "measured", value=value)


def _within(patient: Patient) -> float | None:
    """Mean deviation among samples of the same prompt; None where each prompt has one."""
    groups: dict[str, list[float]] = {}
    for prompt, score in zip(patient.drawn()[0].prompts, patient.scores(), strict=True):
        if score is not None:
            groups.setdefault(prompt, []).append(score)
    several = [torch.tensor(g).std(correction=0) for g in groups.values() if len(g) > 1]
    return float(torch.stack(several).mean()) if several else None


def _difference(a: list[Score], b: list[Score]) -> float:
    """max |difference|; infinite where one applies to a row and the other does not."""
    pairs = zip(a, b, strict=True)
    return max(
        0.0 if x is None and y is None else abs(x - y) if x is not None and y is not None
        else float("inf")
        for x, y in pairs
    )  # fmt: skip


def _allowed(patient: Patient) -> float:
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
    "spread": spread,
    "sees the end": sees_the_end,
    "scale": scale,
    "length": length_bias,
    "its tokenizer": own_tokenizer,
    "speed": speed,
}
