"""Bugs of sampling, scoring and the rollout."""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.study.bugs.bug import Bug
from rlhf_pg.study.bugs.small_network import SmallNetwork, gpt2, llama
from rlhf_pg.study.bugs.small_text import PLAIN, SmallText

REINFORCE = replace(PLAIN, baseline="none")
PENALISED = SmallText(missing_eos_penalty=1.0)
WIDE = replace(PENALISED, columns=4)
WARM = SmallText(temperature=0.7)
SHIFTED = replace(WARM, config=REINFORCE, shift=5.0)
PROMPTS = ["film", "very good film", "not very good very bad film"]  # 1, 3 and 6 tokens
GPT2, LLAMA = (SmallNetwork(make, PROMPTS, length=2, columns=2) for make in (gpt2, llama))


def reference_minus_policy(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The KL penalty is added to the reward instead of subtracted, as by rlhf-book's k1.

    The first update is right, since the policy still is the reference; every later one moves away
    from it. The score rises all the same: only the objective shows the bug.
    """
    return ref_logprobs - logprobs


def score_after_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """The score is put one step after the last token: a length is taken for an index.

    The mask removes it there, so only completions without padding keep their score. If few
    completions end early, little changes; if every row has padding, only the KL is left.
    """
    rewards, rows = torch.zeros_like(mask, dtype=scores.dtype), torch.arange(len(mask))
    rewards[rows, mask.sum(1).clamp(max=mask.shape[1] - 1)] = scores
    return rewards


def ids_that_are_not_pad(ids: Tensor, lengths: Tensor, pad: int) -> Tensor:
    """Real tokens are found by `ids != pad` after `tokenizer.pad_token = tokenizer.eos_token`.

    EOS then gets neither credit nor blame, and its probability drifts: up where other tokens do
    worse than the baseline, down where they do better. With another pad token the bug is harmless,
    as long as the policy never writes that token.
    """
    return ids != pad


def logprobs_at_temperature_one(logits: Tensor, temperature: float) -> Tensor:
    """Tokens are sampled at a temperature that the scoring does not know.

    grad log pi no longer averages to 0 over the samples, so a number added to all scores, which
    should change nothing, changes the gradient. At temperature 1 the bug is harmless.
    """
    return logits.log_softmax(-1)


def positions_from_the_padding(mask: Tensor) -> Tensor:
    """Prompts are padded on the left, and positions counted from the padding, as by TRL 1.16.

    Tokens are sampled at the right positions and scored at others. A model that embeds positions
    (GPT-2) learns for positions where no text will be. For one that sees only distances (RoPE) the
    bug is harmless.
    """
    return torch.arange(mask.shape[1]).expand_as(mask)


BUGS = [
    Bug(
        "kl-sign",
        {"k1": reference_minus_policy},
        effect="rewards leaving the reference",
        gradients={
            "a policy that has left the reference": SmallText(),
            "the first update, policy = reference": SmallText(at_reference=True),
        },
        curves={"from the reference": SmallText()},
    ),
    Bug(
        "score-on-pad",
        {"place_score": score_after_last_token},
        effect="scores are lost",
        gradients={"a batch one column wider": WIDE, "a batch as wide as its rows": PENALISED},
        curves={"a batch one column wider": WIDE, "a batch as wide as its rows": PENALISED},
    ),
    Bug(
        "pad-is-eos",
        {"mask": ids_that_are_not_pad},
        effect="the end is never credited",
        gradients={
            "pad = EOS": PENALISED,
            "a pad of its own, never written": replace(PENALISED, pad="unused"),
            "a pad of its own, written now and then": replace(PENALISED, pad="own"),
        },
        curves={"pad = EOS, a missing EOS costs 1": PENALISED},
        numbers={"share that ends with EOS after learning (optimum 0.334)": PENALISED.ending},
    ),
    Bug(
        "no-temperature",
        {"token_logprobs": logprobs_at_temperature_one},
        effect="scores another distribution",
        gradients={
            "temperature 0.7": replace(WARM, config=REINFORCE),
            "temperature 0.7, every score 5 higher": SHIFTED,
            "temperature 1": SmallText(REINFORCE),
        },
        curves={
            "temperature 0.7": WARM,
            "temperature 0.7, every score 5 higher, no baseline": SHIFTED,
        },
    ),
    Bug(
        "no-position-ids",
        {"position_ids": positions_from_the_padding},
        effect="learns at wrong positions",
        gradients={
            "GPT-2, prompts of 1, 3 and 6 tokens": GPT2,
            "Llama, prompts of 1, 3 and 6 tokens": LLAMA,
        },
        curves={"GPT-2": GPT2, "Llama": LLAMA},
        numbers={
            "GPT-2: largest error of a log-probability, nats": GPT2.error,
            "Llama: largest error of a log-probability, nats": LLAMA.error,
        },
    ),
]
