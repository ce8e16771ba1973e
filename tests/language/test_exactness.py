"""On a task whose completions can all be enumerated, the rollout path gives the exact gradient.

J = E[R] - beta * KL(policy || reference), by autograd, against the learner's gradient over all
completions, each weighed by its probability.
"""

import itertools

import pytest
import torch

from rlhf_pg.core.algorithms import LearnerConfig, algorithm
from rlhf_pg.core.learner import Learner, estimate_advantages
from rlhf_pg.core.losses import policy_gradient_loss, ppo_clip_loss
from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import language_rollout, reference_logprobs, score
from rlhf_pg.language.sampling import Completions, encode
from support.language import tiny_lm, with_values

BETA = 0.3


class Task:
    """All 156 completions of at most 3 of 6 tokens after one prompt, and a score for each."""

    def __init__(self):
        tokenizer = models.train_tokenizer(["x y z"], "word")
        eos = tokenizer.eos_token_id
        words = [i for i in range(6) if i != eos]
        ended = [(*p, eos) for n in range(3) for p in itertools.product(words, repeat=n)]
        self.completions = ended + list(itertools.product(words, repeat=3))
        self.prompt = encode(tokenizer, ["x y"])[0]
        self.policy = with_values(LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.3)))
        other = tiny_lm("llama", tokenizer, spread=0.3, seed=1)
        self.reference = LanguagePolicy(other, critic="none")
        self.scores = torch.randn(len(self.completions), generator=torch.Generator().manual_seed(0))
        self.eos = eos
        prefixes = sorted({c[:n] for c in self.completions for n in range(1, len(c) + 1)})
        numbers = torch.randn(len(prefixes), generator=torch.Generator().manual_seed(1))
        self.of_prefix = dict(zip(prefixes, numbers.tolist(), strict=True))

    def process_reward(self, completion_ids, **columns):
        """A number for every token, which depends on it and on those before it."""
        return [
            [self.of_prefix[tuple(ids[: t + 1])] for t in range(len(ids))] for ids in completion_ids
        ]

    def look_ahead(self, completion_ids, **columns):
        """The same numbers, each one token early: that of a token depends on the next one."""
        return [row[1:] + row[:1] for row in self.process_reward(completion_ids)]

    def logprob(self, policy):
        """log p of each completion, by plain forwards of the model, one for each length."""
        total = []
        for length in (1, 2, 3):  # as `completions` has them
            tokens = torch.tensor([c for c in self.completions if len(c) == length])
            ids = torch.cat([torch.tensor([self.prompt] * len(tokens)), tokens], 1)
            logp = policy.model(ids).logits.log_softmax(-1)[:, len(self.prompt) - 1 : -1]
            total.append(logp.gather(2, tokens[..., None]).sum((1, 2)))
        return torch.cat(total)

    def exact_gradient(self, scores=None):
        """Of J, for these scores of the completions."""
        scores = self.scores if scores is None else scores
        logp, ref = self.logprob(self.policy), self.logprob(self.reference).detach()
        objective = (logp.exp() * (scores - BETA * (logp - ref))).sum()
        return torch.autograd.grad(objective, list(self.policy.model.parameters()))

    def rollout(self, reward=None, **options):
        """The completions as if they had been sampled, with the scores of a reward."""
        rows = len(self.completions)
        lengths = torch.tensor([len(c) for c in self.completions])
        ids = torch.tensor([[*c, *[0] * (3 - len(c))] for c in self.completions])
        prompt_ids = torch.tensor([self.prompt] * rows)
        done = Completions(
            prompt_ids=prompt_ids,
            prompt_mask=torch.ones_like(prompt_ids),
            ids=ids,
            mask=torch.arange(3) < lengths[:, None],
            logprobs=torch.zeros(rows, 3),
            values=torch.zeros(rows, 4),
            finished=ids.gather(1, lengths[:, None] - 1)[:, 0] == self.eos,
            prompts=["x y"] * rows,
            texts=[""] * rows,
        )
        with torch.no_grad():
            _, values, _ = self.policy(torch.cat([prompt_ids, ids], 1), torch.ones(rows, 5), keep=4)
            done.logprobs = reference_logprobs(self.policy, done)
            done.values = values
        ref_logprobs = reference_logprobs(self.reference, done)
        scores = self.scores if reward is None else score(reward, None, done, {}, None, 0.0).rewards
        return language_rollout(done, scores, ref_logprobs, BETA, **options)

    def expected_gradient(self, config, reward=None):
        """sum_y p(y) * gradient of the policy's loss on y; if groups are compared, over all pairs
        of y and another sample y', each with the probability p(y) p(y')."""
        rollout = self.rollout(reward)
        probs = self.logprob(self.policy).exp().detach()
        count = len(probs)
        if config.baseline == "leave-one-out":
            rows = torch.cartesian_prod(torch.arange(count), torch.arange(count)).flatten()
            pairs = rollout[rows]
            pairs.group_size = 2
            advantages = estimate_advantages(pairs, config)[0][::2].reshape(count, count, -1)
            advantages = torch.einsum("j,ijt->it", probs, advantages)
        else:
            advantages, _ = estimate_advantages(rollout, config)
        new, weighed = self.policy.evaluate(rollout).logprobs, probs[:, None] * advantages * count
        if config.clip is None:
            loss = policy_gradient_loss(new, weighed, rollout.mask, "episode")
        else:
            old = rollout.logprobs
            loss = ppo_clip_loss(new, old, weighed, rollout.mask, config.clip, "episode")
        return torch.autograd.grad(-loss, list(self.policy.model.parameters()))


@pytest.fixture(scope="module")
def task():
    return Task()


def error(estimate, exact):
    """The norm of the difference, over that of the exact gradient."""
    flat, truth = (torch.cat([g.flatten() for g in grads]) for grads in (estimate, exact))
    return float((flat - truth).norm() / truth.norm())


def test_the_completions_are_all_there_are(task):
    assert float(task.logprob(task.policy).exp().sum().detach()) == pytest.approx(1, abs=1e-5)


def test_one_update_is_one_step_along_the_exact_gradient(task):
    """The learner itself, by plain gradient ascent; a row's rewards carry its probability."""
    exact = task.exact_gradient()
    rollout = task.rollout()
    weights = task.logprob(task.policy).exp().detach() * len(rollout)
    rollout.rewards = rollout.rewards * weights[:, None]
    parameters = list(task.policy.model.parameters())
    before = [p.detach().clone() for p in parameters]
    options = algorithm("reinforce", max_grad_norm=0.0, lr=1.0)
    sgd = torch.optim.SGD(parameters)
    Learner(task.policy, options, optimizer=sgd).update(rollout)
    steps = [p.detach() - b for p, b in zip(parameters, before, strict=True)]
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    assert error(steps, exact) < 1e-3


@pytest.mark.parametrize(
    "config", [LearnerConfig(baseline="none"), LearnerConfig(lam=1.0)], ids=["none", "critic"]
)
def test_the_expected_gradient_is_exact_whatever_the_critic_says(task, config):
    assert error(task.expected_gradient(config), task.exact_gradient()) < 1e-3


def test_a_wrong_critic_with_lambda_below_one_biases_the_gradient(task):
    assert error(task.expected_gradient(LearnerConfig(lam=0.5)), task.exact_gradient()) > 0.1


PER_TOKEN = {
    "reinforce": algorithm("reinforce"),
    "reinforce-baseline": algorithm("reinforce-baseline"),
    "rloo": algorithm("rloo"),
    "ppo": algorithm("ppo", lam=1.0, whiten_advantages=False),
}


@pytest.mark.parametrize("name", PER_TOKEN)
def test_rewards_per_token_have_the_exact_gradient(task, name):
    """A reward function that gives a list for each completion; its sum is the score."""
    ids = [list(completion) for completion in task.completions]
    totals = torch.tensor([sum(row) for row in task.process_reward(ids)])
    exact = task.exact_gradient(totals)
    assert error(task.expected_gradient(PER_TOKEN[name], task.process_reward), exact) < 1e-3


def test_a_reward_of_a_token_must_not_depend_on_later_tokens(task):
    """Reward-to-go leaves out the rewards before a token, which it then has a part in."""
    ids = [list(completion) for completion in task.completions]
    totals = torch.tensor([sum(row) for row in task.look_ahead(ids)])
    exact = task.exact_gradient(totals)
    assert error(task.expected_gradient(PER_TOKEN["reinforce"], task.look_ahead), exact) > 0.1
    assert error(task.expected_gradient(PER_TOKEN["rloo"], task.look_ahead), exact) < 1e-3
