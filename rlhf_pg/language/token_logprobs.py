"""Log-probabilities and entropies of tokens from hidden states, a part of the positions at a time.

The logits of a whole batch, (B, T, V), are the largest tensor of training: at a vocabulary of
50,000 they and the copies that softmax and its gradient make fill more memory than the model.
"""

from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2**22  # logits computed at a time (16 MB)
KEPT = 2**26  # probabilities kept for the backward pass (256 MB); more are computed again


def token_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log pi of `tokens` (N,) and entropies (N,) in nats, pi = softmax(head(hidden) / temperature).

    `hidden` is (N, D), `weight` (V, D), `bias` (V,) or None. Computed in float32 at least. Equal to
    log_softmax of all logits up to rounding, with their gradient.
    """
    logprobs, entropies = _TokenLogprobs.apply(hidden, weight, bias, tokens, temperature)  # type: ignore[no-untyped-call]
    return logprobs, entropies


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature = temperature
        logprobs, entropies = (hidden.new_empty(len(hidden)) for _ in range(2))
        keep = any(ctx.needs_input_grad) and len(hidden) * len(weight) <= KEPT
        kept = hidden.new_empty(len(hidden), len(weight)) if keep else None
        for part in _parts(len(hidden), len(weight)):
            logs = _log_softmax(hidden[part], weight, bias, temperature)
            logprobs[part] = logs.gather(-1, tokens[part, None])[:, 0]
            probs = logs.exp() if kept is None else torch.exp(logs, out=kept[part])
            # A token of probability 0 adds nothing, though its log may be -inf.
            entropies[part] = -torch.linalg.vecdot(probs, logs.clamp_(min=_least(logs)))
        ctx.save_for_backward(hidden, weight, bias, tokens, entropies, kept)
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """d log pi(a) = 1[a] - pi, and d entropy = -pi (log pi + entropy), by the logits."""
        hidden, weight, bias, tokens, entropies, kept = ctx.saved_tensors
        by_logprob, by_entropy = (None if g is None else g / ctx.temperature for g in gradients)
        by_hidden, by_weight, by_bias = [], None, None
        for part in _parts(len(hidden), len(weight)):
            if kept is not None:
                probs = kept[part]
                logs = probs.log() if by_entropy is not None else None
            else:
                logs = _log_softmax(hidden[part], weight, bias, ctx.temperature)
                probs = logs.exp()
            change: Any = 0.0
            if by_logprob is not None:
                g = by_logprob[part, None]
                change = (probs * -g).scatter_add(-1, tokens[part, None], g)
            if by_entropy is not None:
                assert logs is not None
                surprise = logs.clamp(min=_least(logs)) + entropies[part, None]
                change = change - probs * surprise * by_entropy[part, None]
            if ctx.needs_input_grad[0]:
                by_hidden.append(change @ weight)
            if ctx.needs_input_grad[1]:
                addition = change.transpose(-1, -2) @ hidden[part]
                by_weight = addition if by_weight is None else by_weight.add_(addition)
            if bias is not None and ctx.needs_input_grad[2]:
                addition = change.sum(-2)
                by_bias = addition if by_bias is None else by_bias + addition
        return torch.cat(by_hidden, -2) if by_hidden else None, by_weight, by_bias, None, None


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    return torch.nn.functional.linear(hidden, weight, bias).div_(temperature).log_softmax(-1)


def _least(logs: Tensor) -> float:
    return torch.finfo(logs.dtype).min


def _parts(rows: int, vocabulary: int) -> list[slice]:
    """Slices of the rows whose logits are at most `AT_ONCE` numbers."""
    size = max(1, AT_ONCE // vocabulary)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
