"""Checks of the scores: whether they can be learned from."""

import torch

from rlhf_pg.study.doctor.finding import Check, Finding, Missing, judged
from rlhf_pg.study.doctor.patient import Patient
from rlhf_pg.study.doctor.reward import allowed, difference, steady


def spread(patient: Patient) -> Finding:
    """Completions score differently, those of the same prompt too: else there is no gradient."""
    scores = patient.applied()
    std, distinct = float(scores.std(correction=0)), scores.unique()
    said, within = f"std {std:.3g}", _within(patient)
    if within is not None:
        said += f", {within:.3g} within a prompt"
    limit, nothing = "above 0", 1e-6 * max(1.0, float(scores.abs().max()))
    if std <= nothing:
        remedy = (
            "every completion scores the same, so there is nothing to learn: look at what "
            "`rlhf-pg sample --reward` prints, and choose a reward that tells them apart"
        )
        return Finding("fail", said, limit, remedy, std)
    if within is not None and within <= nothing:
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
    """A text that was cut off is worth less or more than one that ended, by some rule."""
    scores = steady(patient)
    otherwise = [not ended for ended in patient.drawn()[0].finished.tolist()]
    value = difference(scores, patient.ask(finished=otherwise))
    price = patient.config.missing_eos_penalty
    if value <= allowed(patient) and price > 0:
        said = f"no; a cut one pays --missing_eos_penalty {price:g}"
        return Finding("pass", said, "one of the two", value=value)
    return judged(
        value > allowed(patient),
        f"up to {value:.3g} apart" if value > allowed(patient) else "no",
        "one of the two",
        "nothing tells the policy to end its text: set --missing_eos_penalty 1, or let the reward "
        "read the column `finished`",
        "warn",
        value,
    )


def scale(patient: Patient) -> Finding:
    """The scores suit the KL penalty and the critic, which begins at 0."""
    scores, beta = patient.applied(), patient.config.kl_coef
    mean, std = float(scores.mean()), float(scores.std(correction=0))
    largest = float(scores.abs().max())
    # The optimum is ref * exp(r / beta) / Z: std / beta is how far, in nats, it tilts the texts.
    tilt = std / beta if beta else 0.0
    said = f"mean {mean:+.3g}, largest {largest:.3g}, std / kl_coef {tilt:.3g}"
    centred = abs(mean) <= 20 * std or abs(mean) <= 1
    far = "far from 0 beside its spread" if not centred else "large beside the KL penalty"
    return judged(
        (centred and tilt <= 50) or len(scores.unique()) == 1,
        said,
        "ratio at most 50",
        f"the score is {far}, so the critic or the KL does not keep up: scale it, as in --reward "
        f"'normalise({patient.spec})', clip it (--score_clip 5), or raise --kl_coef",
        "warn",
        tilt,
    )


def length_bias(patient: Patient) -> Finding:
    """How far the score is a matter of length."""
    scores = patient.scores()
    lengths = patient.drawn()[0].mask.sum(1).tolist()
    pairs = [(n, s) for n, s in zip(lengths, scores, strict=True) if s is not None]
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


def _within(patient: Patient) -> float | None:
    """Mean deviation among samples of the same prompt; None where each prompt has one."""
    groups: dict[str, list[float]] = {}
    for prompt, score in zip(patient.drawn()[0].prompts, patient.scores(), strict=True):
        if score is not None:
            groups.setdefault(prompt, []).append(score)
    several = [torch.tensor(g).std(correction=0) for g in groups.values() if len(g) > 1]
    return float(torch.stack(several).mean()) if several else None


CHECKS: dict[str, Check] = {
    "spread": spread,
    "sees the end": sees_the_end,
    "scale": scale,
    "length": length_bias,
}
