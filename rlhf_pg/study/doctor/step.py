"""Checks of a gradient step, and of what a run takes. Every public function is a check."""

from datetime import timedelta

from rlhf_pg.progress import number
from rlhf_pg.study.doctor.context import Context, Result, Skip, Status, result

DAY = 24 * 3600


def memory(context: Context) -> Result:
    """Weights, gradient, Adam's moments and the reference fit into the memory."""
    parts, total = context.trainer.bytes_needed(), context.trainer.total_memory()
    needed = sum(parts.values())
    advice = (
        f"{', '.join(f'{name} {number(x / 1e6)} MB' for name, x in parts.items())}, and "
        "activations, which grow with --rows and --max_new_tokens: train adapters (--lora_rank "
        "16), take a smaller --model, or a larger machine"
    )
    measured = f"{number(needed / 1e6)} MB + activations"
    limit = f"up to {number(0.8 * total / 1e6)} MB"
    otherwise: Status = "fail" if needed > total else "warn"
    return result(needed <= 0.8 * total, measured, limit, advice, otherwise)


def eos_gradient(context: Context) -> Result:
    """The learner's mask keeps every EOS, and the gradient reaches it."""
    gradient = context.gradient
    if not gradient.finished:
        raise Skip("no completion of the step ended by EOS")
    kept = gradient.eos_in_mask == gradient.finished
    masked = "the mask drops EOS: masks must come from lengths, not from `ids != pad`"
    zero = (
        "no EOS has an advantage: use a reward that distinguishes completions, or --algorithm ppo"
    )
    measured = f"in {gradient.eos_reached} of {gradient.finished} EOS"
    advice = zero if kept else masked
    return result(kept and gradient.eos_reached > 0, measured, "above 0", advice)


def all_parameters_learn(context: Context) -> Result:
    """Every parameter gets a gradient from one backward pass of the loss."""
    missing, reached = context.gradient.missing, context.gradient.reached
    advice = (
        f"{', '.join(missing[:3])}{' ...' if missing[3:] else ''} will not change: unless you mean "
        "it, set requires_grad_(True), or use them in the forward"
    )
    measured = f"{len(missing)} of {len(missing) + len(reached)} tensors without"
    return result(not missing, measured, "0", advice, "warn")


def gradient_norm(context: Context) -> Result:
    """The gradient is above Adam's epsilon, below which nothing is learned, and near its clip."""
    norm, learner = context.gradient.norm, context.config.learner
    least, most = learner.adam_eps, 100 * (learner.max_grad_norm or 1.0)
    zero = "all advantages are 0: use a reward that differs between samples of a prompt"
    large = (
        "every step would be clipped (--learner.max_grad_norm), its direction set by a few rows: "
        f"scale the reward, as in 'normalise({context.reward})'"
    )
    measured = number(norm) + ("" if context.reward else ", of random scores")
    otherwise: Status = "warn" if norm > least else "fail"
    advice = large if norm > least else zero
    limit = f"{number(least, 2)} to {number(most)}"
    return result(least < norm <= most, measured, limit, advice, otherwise)


def time(context: Context) -> Result:
    """The run ends within a day; estimated from one iteration, which changes no weight."""
    stages, iterations = context.iteration.seconds, context.config.iterations
    seconds = sum(stages.values()) * iterations
    slowest = max(stages, key=lambda stage: stages[stage])
    advice = (
        f"most of it is {slowest}: lower --iterations, --rows or --max_new_tokens, take a smaller "
        "model, or use an accelerator"
    )
    measured = f"{timedelta(seconds=round(seconds))}, {number(iterations)} iterations"
    return result(seconds <= DAY, measured, "up to 1 day", advice, "warn")
