"""Options of the learner, and the named algorithms: each is a preset of these options.

The same names serve text and control. Nothing here imports torch, so that help is fast.
"""

import difflib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from rlhf_pg.core.options import Options, option

Reduction = Literal["episode", "token", "constant", "row"]
RatioLevel = Literal["token", "sequence"]
Baseline = Literal[
    "none",
    "critic",
    "batch-mean",
    "moving-average",
    "optimal",
    "leave-one-out",
    "group",
    "group-centred",
]


@dataclass
class LearnerConfig(Options):
    """How a rollout becomes a gradient step; a named algorithm is a preset of these options."""

    baseline: Baseline = "critic"
    """Baseline subtracted from the return. "critic" is V(s). "leave-one-out", "group" and
    "group-centred" compare K samples of a prompt and treat the whole episode as one action.
    "moving-average" and "optimal" (the constant of least variance, which costs one backward pass
    per row) are computed from earlier rollouts, so they are unbiased. The mean of "batch-mean" and
    "group-centred" includes the sample itself, which scales the gradient by 1 - 1/n but not a KL in
    the loss: with K samples, training ends at the optimum of kl_coef * K/(K-1). "leave-one-out" is
    "group-centred" times K/(K-1), and so exact. "group" divides by the group's standard deviation,
    which weights prompts by 1/deviation and, with the KL in the loss, makes the policy much sharper
    than the optimum."""
    gamma: float = option(1.0, at_least=0, at_most=1)
    """Discount factor: 1 for text, usually 0.9 to 0.999 for control. As usual, steps are not
    weighted by gamma^t, so below 1 this is not the exact gradient of the discounted return."""
    lam: float = option(0.95, at_least=0, at_most=1)
    """GAE's lambda, usually 0.9 to 1. 1 is unbiased; below 1 a wrong critic biases the gradient."""
    n_steps: int | None = option(None, at_least=1)
    """Bootstrap from the critic after this many steps, instead of using lambda; usually 5. In
    longer episodes a wrong critic biases the gradient."""
    whiten_rewards: bool = False
    """Scale rewards to unit variance, keeping their mean. Biased, since the scale depends on the
    sample, and it changes the balance between score and KL."""
    whiten_advantages: bool = False
    """Scale advantages to mean 0 and variance 1 over the batch. Adds noise in batches of few steps;
    slightly biased, since the scale depends on the sample."""
    clip: float | None = option(None, above=0)
    """PPO's clip of the ratio, usually 0.1 to 0.3; null is the plain policy gradient. From the
    second step on a rollout on, the gradient is biased: by clipping, and because a token's ratio
    ignores how the probabilities of the other tokens changed."""
    clip_high: float | None = option(None, above=0)
    """Upper clip of the ratio, if it is not `clip` too; usually 0.28 (DAPO's clip-higher: unlikely
    tokens can rise further)."""
    dual_clip: float | None = option(None, above=1)
    """Where the advantage is negative, clip the ratio at this too, usually 3 (Ye et al. 2020): a
    token that has become much likelier gives no gradient."""
    ratio: RatioLevel = "token"
    """"token": each token's own ratio. "sequence": the geometric mean of the row's (GSPO), with a
    clip of usually 3e-4 to 1e-2."""
    clip_weights: bool = False
    """Weight log-probabilities by the clipped ratio instead of clipping the objective (CISPO): no
    token loses its gradient. Usually with `clip` 1, no lower limit, and `clip_high` 1 to 7."""
    divide_by_batch_std: bool = False
    """Divide advantages by the standard deviation of the scores of the whole batch. Biased in
    scale, since the deviation depends on the sample; unlike that of "group", it weights no
    prompt."""
    value_clip: float | None = option(None, above=0)
    """Clip new values to within this of the old ones, usually 0.2; null does not. A critic with
    much larger values then learns slowly."""
    value_coef: float = option(0.1, at_least=0)
    """Weight of the value loss, usually 0.1 (text) or 0.5 (control)."""
    entropy_coef: float = option(0.0, at_least=0)
    """Weight of the entropy bonus, usually 0 to 0.02. It raises the entropy at the visited states
    and ignores that other actions lead to other states."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL to the reference is added: k1 in the reward, or k2 in the loss. Both are
    exact."""
    reduction: Reduction = "episode"
    """"episode": sum over steps, mean over rows (the policy gradient). "token": mean over all
    tokens (usual for PPO; the lengths in the batch rescale the gradient). "constant": sum /
    (rows * columns). "row": mean over a row's steps, then over rows, which weights an episode by
    1/length, a bias."""
    epochs: int = option(1, at_least=1)
    """Passes over each rollout, usually 1 (on-policy) to 4 (PPO) or 10 (PPO in control). Without
    `clip`, every step but the first treats samples of an older policy as its own."""
    minibatches: int = option(1, at_least=1)
    """Gradient steps per pass, usually 1 to 8."""
    micro_rows: int | None = option(None, at_least=1)
    """Maximum rows per forward pass, to limit memory; the gradient is the same. By default, text
    takes as many as keep about 1 GB for the backward pass, and control all."""
    target_kl: float | None = option(None, above=0)
    """Stop the epochs once KL(old || new) exceeds 1.5 times this, usually 0.01 to 0.05."""
    critic_warmup: int = option(0, at_least=0)
    """Number of first updates that train only the critic, usually 0 to 20."""
    lr: float = option(3e-4, at_least=0)
    """Learning rate of Adam, usually 1e-6 (large LMs) to 1e-3 (tiny ones)."""
    lr_decay_updates: int | None = option(None, at_least=1)
    """Number of updates over which the learning rate falls linearly to 0; null keeps it
    constant."""
    max_grad_norm: float = option(1.0, at_least=0)
    """Clip the gradient's norm, usually 1.0 (text) or 0.5 (control); 0 does not. Clipping gives
    batches with large gradients less weight, a bias."""
    max_skipped_steps: int = option(3, at_least=0)
    """Maximum number of gradient steps in a row that are skipped because the gradient is NaN or
    infinite, usually 0 to 10; one more is an error."""
    adam_eps: float = option(1e-5, above=0)
    """Adam's epsilon, usually 1e-5 for policy gradients."""
    weight_decay: float = option(0.0, at_least=0)
    """AdamW's weight decay, usually 0."""
    seed: int = option(0, at_least=0)
    """Random seed of the order of minibatches."""


ALGORITHMS: dict[str, LearnerConfig] = {
    # Rewards-to-go, no baseline (Williams 1992).
    "reinforce": LearnerConfig(baseline="none"),
    # The same minus V(s): lambda 1, unbiased for any critic.
    "reinforce-baseline": LearnerConfig(lam=1.0),
    # One-step TD errors: low variance, biased by the critic's errors (Barto et al. 1983).
    "actor-critic": LearnerConfig(lam=0.0),
    # Advantage actor-critic, synchronous (Mnih et al. 2016); GAE, or n-step returns by n_steps.
    "a2c": LearnerConfig(lam=0.95),
    # Several clipped epochs over each rollout (Schulman et al. 2017).
    "ppo": LearnerConfig(
        clip=0.2, value_clip=0.2, whiten_advantages=True, reduction="token", epochs=4, minibatches=4
    ),
    # K samples of a prompt, each against the mean of the others (Ahmadian et al. 2024).
    "rloo": LearnerConfig(baseline="leave-one-out"),
    # K samples of a prompt, normalised by their spread, KL in the loss (Shao et al. 2024).
    "grpo": LearnerConfig(baseline="group", clip=0.2, kl_in="loss", reduction="token"),
    # GRPO without its two biases, the deviation and the lengths (Liu et al. 2025, arXiv 2503.20783;
    # they divide the sum by a constant length, which changes the scale alone).
    "dr-grpo": LearnerConfig(baseline="group-centred", clip=0.2, kl_in="loss"),
    # The upper clip is wider, and groups whose scores are equal are drawn anew (Yu et al. 2025,
    # arXiv 2503.14476; they leave the KL out: kl_coef 0).
    "dapo": LearnerConfig(
        baseline="group", clip=0.2, clip_high=0.28, kl_in="loss", reduction="token", minibatches=4
    ),
    # One ratio per completion (Zheng et al. 2025, arXiv 2507.18071).
    "gspo": LearnerConfig(
        baseline="group",
        ratio="sequence",
        clip=3e-4,
        clip_high=4e-4,
        kl_in="loss",
        reduction="row",
        minibatches=4,
    ),
    # Clipped ratios weight the log-probabilities (MiniMax-M1 2025, arXiv 2506.13585; the upper
    # limit of 5 is usual since ScaleRL, Khatri et al. 2025, arXiv 2510.13786).
    "cispo": LearnerConfig(
        baseline="group",
        clip=1.0,
        clip_high=4.0,
        clip_weights=True,
        kl_in="loss",
        reduction="token",
        minibatches=4,
    ),
}

SYNONYMS = {  # names from other libraries
    "learning_rate": ["lr"],
    "gae_lambda": ["lam"],
    "ent_coef": ["entropy_coef"],
    "vf_coef": ["value_coef"],
    "clip_range": ["clip"],
    "cliprange": ["clip"],
    "n_epochs": ["epochs"],
    "epsilon": ["clip"],
    "epsilon_high": ["clip_high"],
    "importance_sampling_level": ["ratio"],
}


def algorithm(name: str, **overrides: Any) -> LearnerConfig:
    """The configuration of a named algorithm, with fields replaced.

    Raises ValueError for an unknown name or field, with the nearest known one.
    """
    if not isinstance(name, str) or name not in ALGORITHMS:
        near = difflib.get_close_matches(str(name), ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown algorithm {name!r}: use one of {', '.join(ALGORITHMS)}{hint}")
    known = [field.name for field in fields(LearnerConfig)]
    for given in overrides:
        if given not in known:
            near = SYNONYMS.get(given) or difflib.get_close_matches(given, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f": use one of {', '.join(known)}"
            raise ValueError(f"unknown option {given!r} of the learner{hint}")
    return replace(ALGORITHMS[name], **overrides)
