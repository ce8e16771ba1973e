"""Worked examples: the theory in numbers small enough to check by hand.

Each example computes with the library's own functions, prints every step with its equation, and
returns its numbers, which the tests compare with those calculated by hand.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.baselines import optimal_constant
from rlhf_pg.core.losses import policy_gradient_loss
from rlhf_pg.core.returns import discounted_sum, gae, rewards_to_go, td_errors
from rlhf_pg.study.config import ExamplesConfig

Say = Callable[[str], None]


def softmax_step(say: Say = print) -> dict[str, Any]:
    """One REINFORCE step of a softmax policy over two actions."""
    say("One REINFORCE step.  pi(a) = exp(theta_a) / sum_k exp(theta_k), theta = (0, 0)")
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    score, rate = 2.0, 0.1
    logp = theta.log_softmax(0)
    (grad_log,) = torch.autograd.grad(logp[0], theta, retain_graph=True)
    say(f"  the sampled action is a_1; d log pi(a_1)/d theta_k = 1[k=1] - pi(k) = {show(grad_log)}")
    loss = policy_gradient_loss(logp[None, :1], row(score), torch.ones(1, 1), "episode")
    (gradient,) = torch.autograd.grad(loss, theta)
    say(f"  its return G = {score:g}; loss = -log pi(a_1) G; gradient = {show(gradient)}")
    after = (theta - rate * gradient).detach()
    probability = float(after.softmax(0)[0])
    say(f"  theta - {rate:g} gradient = {show(after)}; pi(a_1) rises from .5 to {probability:.4f}")
    return {"grad_log": grad_log, "theta": after, "probability": probability}


def bernoulli_bandit(say: Say = print, p: float = 0.3, samples: int = 20_000) -> dict[str, Any]:
    """The exact gradient of a two-armed bandit, and its estimator with several baselines."""
    say(f"A Bernoulli bandit.  a = 1 with probability p = sigmoid(theta) = {p:g}; reward r = a")
    exact = p * (1 - p)
    say(f"  J = p, so dJ/dtheta = p (1 - p) = {exact:.4f}")
    say("  the estimate is g = (a - p) (r - b), since d log pi(a)/d theta = a - p; over both a:")
    actions, probs = row(0.0, 1.0)[0], row(1 - p, p)[0]
    generator = torch.Generator().manual_seed(0)
    sampled = torch.bernoulli(torch.full((samples,), p, dtype=torch.float64), generator=generator)
    # E[|d log pi|^2 r] / E[|d log pi|^2], each action weighted by its probability.
    best = float(optimal_constant(actions, probs * (actions - p) ** 2))
    rows = {}
    for name, b in (("0", 0.0), ("E[r] = p", p), ("best = 1 - p", best), ("10", 10.0)):
        g = (actions - p) * (actions - b)
        mean = float((probs * g).sum())
        variance = float((probs * (g - mean) ** 2).sum())
        of_samples = (sampled - p) * (sampled - b)
        rows[name] = (mean, variance, float(of_samples.mean()), float(of_samples.var()))
        say(
            f"    b = {name:13} E[g] = {mean:.4f}  Var[g] = {variance:8.4f}   "
            f"in {samples:,} samples: {rows[name][2]:+.4f} and {rows[name][3]:.4f}"
        )
    say("  no baseline changes the mean; the variance is least at b = 1 - p, where it is 0")
    return {"exact": exact, "baselines": rows}


def two_step_td(say: Say = print) -> dict[str, Any]:
    """TD errors of an episode of two steps."""
    rewards, values, next_values, gamma = row(1.0, 2.0), row(0.5, 1.5), row(1.5, 0.0), 0.9
    say("Two steps, then the end.  r = (1, 2), V(s_0) = .5, V(s_1) = 1.5, gamma = .9")
    delta = td_errors(rewards, values, next_values, gamma)
    say(f"  delta_1 = r_1 - V(s_1)                  = 2 - 1.5           = {float(delta[0, 1]):g}")
    say(f"  delta_0 = r_0 + gamma V(s_1) - V(s_0)   = 1 + .9 * 1.5 - .5 = {float(delta[0, 0]):g}")
    whole = float(delta[0, 0] + gamma * delta[0, 1])
    to_go = rewards_to_go(rewards, row(0.0, 1.0), gamma)
    say(f"  delta_0 + gamma delta_1 = {whole:g} = G_0 - V(s_0): the values in between cancel")
    return {"delta": delta, "whole": whole, "advantage": float(to_go[0, 0] - values[0, 0])}


def reward_to_go(say: Say = print) -> dict[str, Any]:
    """Why an action is weighted by later rewards only."""
    say("Reward-to-go.  two steps, each a fair coin a_t in {0, 1}; r_0 = a_0, r_1 = a_1")
    say("  gradient by theta_1, the log-odds of the second coin; d log pi(a_1) = a_1 - 1/2")
    coins = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    ends = row(0.0, 1.0).expand(4, 2)
    total, to_go = coins.sum(1), rewards_to_go(coins, ends, 1.0)[:, 1]
    rows = {}
    for name, weight in (("total return r_0 + r_1", total), ("reward-to-go r_1", to_go)):
        g = (coins[:, 1] - 0.5) * weight
        rows[name] = (float(g.mean()), float(g.var(correction=0)))
        say(
            f"  weighted by the {name:22}: g over the four episodes = {show(g)}; "
            f"mean {rows[name][0]:g}, variance {rows[name][1]:g}"
        )
    say("  the first coin adds noise and nothing to the mean: E[d log pi(a_1) r_0] = 0")
    return rows


def gae_exercise(say: Say = print) -> dict[str, Any]:
    """Generalised advantages between the one-step error and the whole return."""
    delta, gamma = row(1.0, 0.5, -0.2), 0.9
    say("GAE.  delta = (1, .5, -.2), gamma = .9;  A_t = delta_t + gamma lambda A_{t+1}")
    first = {}
    for lam in (0.0, 0.5, 0.95, 1.0):
        advantages = discounted_sum(delta, gamma * lam)
        first[lam] = float(advantages[0, 0])
        say(f"  lambda = {lam:<4g}  A = {show(advantages[0])}")
    say("  an episode's end within a row cuts the sum: gamma = lambda = .5,")
    rewards, values = row(1, 2, 3, 4), row(0.5, 1, 1.5, 2)
    next_values, ends = row(1, 0, 2, 7), row(0, 1, 0, 1)
    cut = gae(rewards, values, next_values, ends, gamma=0.5, lam=0.5)
    for name, x in (("r", rewards), ("V(s)", values), ("V(s')", next_values), ("ends", ends)):
        say(f"    {name:6} = {show(x[0])}")
    say(f"    A      = {show(cut[0])}")
    return {"first": first, "cut": cut}


def rock_paper_scissors(say: Say = print, steps: int = 400) -> dict[str, Any]:
    """A game whose optimum is a random policy: no greedy policy reaches it."""
    say("Rock, paper, scissors against a player who knows our policy and replies best")
    payoff = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64)
    say("  J(pi) = min over replies b of sum_a pi(a) payoff(a, b)")
    greedy = {a: float(payoff[i].min()) for i, a in enumerate(("rock", "paper", "scissors"))}
    say(f"  always {', always '.join(f'{a}: {j:g}' for a, j in greedy.items())}")
    theta = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64, requires_grad=True)
    mean_policy = torch.zeros(3, dtype=torch.float64)
    for step in range(steps):
        logp = theta.log_softmax(0)
        pi = logp.detach().exp()
        mean_policy += pi / steps
        returns = pi @ payoff  # by reply; the other player chooses the smallest
        # The exact policy gradient: every action once, weighted by its probability.
        weights = (pi * payoff[:, int(returns.argmin())])[None]
        loss = policy_gradient_loss(logp[None], weights, torch.ones(1, 3), "episode")
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= 0.1 * gradient
        if step in (0, 10, 50):
            say(f"  step {step:3}: pi = {show(pi)}, J = {float(returns.min()):+.3f}")
    value = float((mean_policy @ payoff).min())
    say(f"  the mean policy of {steps} steps: {show(mean_policy)}, J = {value:+.3f}")
    say("  the optimum is (1/3, 1/3, 1/3) with J = 0; every greedy policy has J = -1")
    return {"greedy": greedy, "policy": mean_policy, "value": value}


EXAMPLES: dict[str, Callable[..., dict[str, Any]]] = {
    "softmax-step": softmax_step,
    "bernoulli-bandit": bernoulli_bandit,
    "two-step-td": two_step_td,
    "reward-to-go": reward_to_go,
    "gae": gae_exercise,
    "rock-paper-scissors": rock_paper_scissors,
}


def main(config: ExamplesConfig, say: Say = print) -> None:
    """Print one example, or all of them; raises ValueError for an unknown name."""
    if config.example not in ("all", *EXAMPLES):
        raise ValueError(f"no example {config.example!r}: choose among {', '.join(EXAMPLES)}")
    for name in EXAMPLES if config.example == "all" else [config.example]:
        EXAMPLES[name](say)
        say("")


def row(*values: float) -> Tensor:
    """One row of numbers, (1, T)."""
    return torch.tensor([values], dtype=torch.float64)


def show(x: Tensor) -> str:
    """A vector as text."""
    return "(" + ", ".join(f"{value + 0.0:.4g}" for value in x.detach().tolist()) + ")"
