"""One of two processes that learn together, each from its own rows; run by test_learner.

Every process also learns alone, from all rows, and says for each configuration how far it is from
what the two became together: `python two_processes.py` under RANK, WORLD_SIZE and MASTER_PORT.
"""

import copy
import json
import os

import torch
from accelerate import Accelerator

from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.core.learner import Evaluation, Learner, Rollout

CONFIGS = {
    **{name: algorithm(name, minibatches=1, epochs=2) for name in ALGORITHMS},
    "ppo, constant, in parts": algorithm(
        "ppo", minibatches=1, epochs=2, reduction="constant", micro_rows=2
    ),
    "whitened rewards": LearnerConfig(whiten_rewards=True, n_steps=2, entropy_coef=0.1),
    "whitened advantages": LearnerConfig(whiten_advantages=True),
    "batch mean": LearnerConfig(baseline="batch-mean"),
    "moving average": LearnerConfig(baseline="moving-average"),
    "optimal constant": LearnerConfig(baseline="optimal"),
    "batch deviation": LearnerConfig(baseline="group-centred", divide_by_batch_std=True),
    "row, in parts": LearnerConfig(reduction="row", micro_rows=1),
    "stopped early": algorithm("ppo", minibatches=1, epochs=5, target_kl=1e-3),
    # The first process has no row with a score, the second a group with one.
    **{f"unscored, {name}": algorithm(name, minibatches=1) for name in ("ppo", "rloo", "grpo")},
    "unscored, batch mean": LearnerConfig(baseline="batch-mean", whiten_advantages=True),
}
UNSCORED = [0, 1, 4]
ROWS, COLUMNS, MINE = 6, 4, [slice(0, 2), slice(2, 6)]


class Policy(torch.nn.Module):
    """A logit for every cell of the rollout, and a critic on one parameter."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        logits = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
        self.logits = torch.nn.Parameter(logits)
        self.value = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def evaluate(self, rollout):
        logits = (self.logits[rollout.inputs] + self.logits.mean()).double()
        p = logits.sigmoid()
        entropies = -(p * p.log() + (1 - p) * (1 - p).log())
        return Evaluation(p.log(), entropies, self.value * logits.detach())


def rollouts(policy, unscored):
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([[1], [2], [4], [3], [4], [4]])
    mask = torch.arange(COLUMNS) < lengths
    mask[unscored] = False
    for _ in range(2):
        rollout = Rollout(
            inputs=torch.arange(ROWS),
            actions=mask,
            logprobs=normal(),
            values=normal(),
            next_values=normal(),
            rewards=normal(),
            ends=torch.arange(COLUMNS) == lengths - 1,
            mask=mask,
            ref_logprobs=normal() - 1,
            kl_coef=0.1,
            group_size=2,
        )
        with torch.no_grad():
            rollout.logprobs = policy.evaluate(rollout).logprobs
        yield rollout


def learn(config, rows, accelerator=None, unscored=()):
    policy = Policy()
    learner = Learner(policy, config, accelerator)
    batches = rollouts(copy.deepcopy(policy), list(unscored))
    metrics = [learner.update(rollout[rows]) for rollout in batches]
    return torch.cat([p.detach().flatten() for p in policy.parameters()]), metrics


def main():
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    apart = {}
    for name, config in CONFIGS.items():
        config.lr = 1e-2
        gone = UNSCORED if name.startswith("unscored") else []
        together, metrics = learn(config, MINE[accelerator.process_index], accelerator, gone)
        alone, expected = learn(config, slice(None), unscored=gone)
        differences = [
            abs(one[key] - other[key])
            for one, other in zip(metrics, expected, strict=True)
            for key in expected[0]
        ]
        apart[name] = [float((together - alone).abs().max()), max(differences)]
    with open(os.environ["OUT"], "w") as file:
        json.dump(apart, file)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
