"""Exercise: a sampler of completions."""

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_pg.study.exercises import episodes
from rlhf_pg.study.exercises.checks import Facts, Function


def sample_tokens(
    next_logits: Callable[[Tensor], Tensor],
    rows: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sample `rows` completions of at most T = max_new_tokens tokens; EOS ends one sooner.

    next_logits(ids) takes the tokens so far, (B, t) and (B, 0) at first, and returns the logits
    (B, V) of the next. Divide them by the temperature, and draw from `generator` (torch.multinomial
    takes one). Returns, each (B, T):
    ids       the tokens; pad after EOS (pad may be the same number as eos)
    logprobs  log-probability of each token in the distribution it was sampled from; 0 after EOS
    mask      True on every token up to EOS, which is an action like any other, itself included
    """
    ids = torch.zeros(rows, 0, dtype=torch.long)
    going = torch.ones(rows, dtype=torch.bool)
    logprobs, mask = [], []
    for _ in range(max_new_tokens):
        logp = (next_logits(ids) / temperature).log_softmax(-1)
        drawn = torch.multinomial(logp.exp(), 1, generator=generator)
        mask.append(going)
        logprobs.append(torch.where(going, logp.gather(1, drawn)[:, 0], 0.0))
        ids = torch.cat([ids, torch.where(going[:, None], drawn, pad)], 1)
        going = going & (drawn[:, 0] != eos)
    return ids, torch.stack(logprobs, 1), torch.stack(mask, 1)


def ids_that_are_not_pad(
    next_logits: Callable[[Tensor], Tensor],
    rows: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """the mask is ids != pad, so EOS is never learned where pad is EOS (bug pad-is-eos)"""
    ids = torch.zeros(rows, 0, dtype=torch.long)
    going = torch.ones(rows, dtype=torch.bool)
    logprobs = []
    for _ in range(max_new_tokens):
        logp = (next_logits(ids) / temperature).log_softmax(-1)
        drawn = torch.multinomial(logp.exp(), 1, generator=generator)
        logprobs.append(torch.where(going, logp.gather(1, drawn)[:, 0], 0.0))
        ids = torch.cat([ids, torch.where(going[:, None], drawn, pad)], 1)
        going = going & (drawn[:, 0] != eos)
    return ids, torch.stack(logprobs, 1), ids != pad


def goes_on_after_eos(
    next_logits: Callable[[Tensor], Tensor],
    rows: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """sampling goes on after EOS, and everything counts"""
    ids, logprobs = torch.zeros(rows, 0, dtype=torch.long), []
    for _ in range(max_new_tokens):
        logp = (next_logits(ids) / temperature).log_softmax(-1)
        drawn = torch.multinomial(logp.exp(), 1, generator=generator)
        logprobs.append(logp.gather(1, drawn)[:, 0])
        ids = torch.cat([ids, drawn], 1)
    return ids, torch.stack(logprobs, 1), torch.ones_like(ids, dtype=torch.bool)


def scored_at_temperature_one(
    next_logits: Callable[[Tensor], Tensor],
    rows: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """sampled at the temperature, but scored without it (bug no-temperature)"""
    ids = torch.zeros(rows, 0, dtype=torch.long)
    going = torch.ones(rows, dtype=torch.bool)
    logprobs, mask = [], []
    for _ in range(max_new_tokens):
        logits = next_logits(ids)
        probs = (logits / temperature).softmax(-1)
        drawn = torch.multinomial(probs, 1, generator=generator)
        mask.append(going)
        scored = logits.log_softmax(-1).gather(1, drawn)[:, 0]
        logprobs.append(torch.where(going, scored, 0.0))
        ids = torch.cat([ids, torch.where(going[:, None], drawn, pad)], 1)
        going = going & (drawn[:, 0] != eos)
    return ids, torch.stack(logprobs, 1), torch.stack(mask, 1)


def temperature_ignored(
    next_logits: Callable[[Tensor], Tensor],
    rows: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """the temperature is ignored"""
    ids = torch.zeros(rows, 0, dtype=torch.long)
    going = torch.ones(rows, dtype=torch.bool)
    logprobs, mask = [], []
    for _ in range(max_new_tokens):
        logp = next_logits(ids).log_softmax(-1)
        drawn = torch.multinomial(logp.exp(), 1, generator=generator)
        mask.append(going)
        logprobs.append(torch.where(going, logp.gather(1, drawn)[:, 0], 0.0))
        ids = torch.cat([ids, torch.where(going[:, None], drawn, pad)], 1)
        going = going & (drawn[:, 0] != eos)
    return ids, torch.stack(logprobs, 1), torch.stack(mask, 1)


def greedy(
    next_logits: Callable[[Tensor], Tensor],
    rows: int,
    eos: int,
    pad: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """the most probable token is taken instead of a sample"""
    ids = torch.zeros(rows, 0, dtype=torch.long)
    going = torch.ones(rows, dtype=torch.bool)
    logprobs, mask = [], []
    for _ in range(max_new_tokens):
        logp = (next_logits(ids) / temperature).log_softmax(-1)
        drawn = logp.argmax(1, keepdim=True)
        mask.append(going)
        logprobs.append(torch.where(going, logp.gather(1, drawn)[:, 0], 0.0))
        ids = torch.cat([ids, torch.where(going[:, None], drawn, pad)], 1)
        going = going & (drawn[:, 0] != eos)
    return ids, torch.stack(logprobs, 1), torch.stack(mask, 1)


ROWS, TEMPERATURE = 4000, 0.7


def _next_logits(ids: Tensor) -> Tensor:
    """Logits of the small task; prefixes are numbered as in a heap."""
    logits = episodes.every_episode().logits
    state = torch.zeros(len(ids), dtype=torch.long)
    for t in range(ids.shape[1]):
        state = (2 * state + ids[:, t]).clamp(max=len(logits) - 1)
    return logits[state].clone()


def _facts(function: Function) -> dict[str, bool]:
    every, seeded = episodes.every_episode(), torch.Generator().manual_seed(0)
    arguments = (_next_logits, ROWS, episodes.EOS, episodes.EOS, episodes.LENGTH, TEMPERATURE)
    ids, logprobs, mask = function(*arguments, seeded)
    shape = (ROWS, episodes.LENGTH)
    if not all(tuple(x.shape) == shape for x in (ids, logprobs, mask)):
        return {"ids, logprobs and mask have the shape (B, T)": False}
    mask = mask.bool()
    ended = (ids == episodes.EOS).long().cumsum(1)
    real = ended - (ids == episodes.EOS).long() == 0  # no EOS before
    logits = torch.stack([_next_logits(ids[:, :t]) for t in range(episodes.LENGTH)], 1)
    right = (logits / TEMPERATURE).log_softmax(-1).gather(-1, ids[..., None])[..., 0]

    probs = episodes.probs(every.logits / TEMPERATURE)
    cut = torch.where(real, ids, episodes.EOS)
    found = torch.tensor([
        float((cut == row).all(1).double().mean()) for row in every.tokens[:, : episodes.LENGTH]
    ]).double()  # fmt: skip
    errors = (probs * (1 - probs) / ROWS).sqrt()
    same_seed = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        again = function(*arguments, same_seed)[0]
    return {
        "the mask holds every token up to EOS, EOS included": torch.equal(mask, real),
        "after EOS there is pad": bool((ids[~real] == episodes.EOS).all()),
        "log-probabilities are those of the sampled tokens at the temperature": torch.allclose(
            logprobs.double()[real], right[real], atol=1e-5
        ),
        "log-probabilities are 0 after EOS": not logprobs[~real].any(),
        "every completion is as frequent as it is probable, within 5 standard errors": bool(
            ((found - probs).abs() < 5 * errors).all()
        ),
        "an equal generator gives equal tokens": torch.equal(again, ids),
    }


WRONG = [
    ids_that_are_not_pad, goes_on_after_eos, scored_at_temperature_one, temperature_ignored, greedy
]  # fmt: skip
CHECKS = [Facts(f"{ROWS:,} completions, pad = EOS, temperature {TEMPERATURE}", _facts)]
