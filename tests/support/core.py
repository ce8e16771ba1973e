"""Tabular policies and their rollouts: of random rows, and of all completions of a tiny task."""

from dataclasses import replace
from itertools import product

import torch

from rlhf_pg.core.rollout import Evaluation, Rollout

EOS = 0
POISON = 1e6


class TablePolicy(torch.nn.Module):
    """A softmax with its own logits, and a critic with its own value, in every state.

    On padding it returns `poison`, which must change nothing.
    """

    def __init__(self, logits, values=None, poison=POISON):
        super().__init__()
        self.logits = torch.nn.Parameter(logits.detach().clone())
        values = torch.zeros_like(logits[:, 0]) if values is None else values
        self.values = torch.nn.Parameter(values.detach().clone())
        self.poison = poison

    def evaluate(self, rollout):
        logp = self.logits[rollout.inputs].log_softmax(-1)
        logprobs = logp.gather(-1, rollout.actions[..., None])[..., 0]
        entropies = -(logp.exp() * logp).sum(-1)
        values = self.values[rollout.inputs]
        return Evaluation(
            *(pad(x, rollout.mask, self.poison) for x in (logprobs, entropies, values))
        )


class Tree:
    """All completions of at most `length` tokens (EOS ends one sooner), and a policy over them.

    A state is a prefix; logits, reference and rewards are random tables over (prefix, token).
    """

    def __init__(self, length, vocabulary=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        words = range(1, vocabulary)
        prefixes = [p for n in range(length) for p in product(words, repeat=n)]
        self.index = {p: i for i, p in enumerate(prefixes)}
        ended = [(*p, EOS) for p in prefixes]
        self.completions = ended + list(product(words, repeat=length))

        def table():
            size = (len(prefixes), vocabulary)
            return torch.randn(size, generator=generator, dtype=torch.float64)

        self.logits = table().requires_grad_()
        self.ref_logits = table()
        self.reward_table = table()
        self.some_values = table()[:, 0]  # a critic that is wrong

        rows, columns = len(self.completions), length
        self.states = torch.zeros(rows, columns, dtype=torch.long)
        self.actions = torch.zeros(rows, columns, dtype=torch.long)
        self.mask = torch.zeros(rows, columns, dtype=torch.bool)
        self.last = torch.zeros(rows, columns, dtype=torch.bool)
        for row, completion in enumerate(self.completions):
            for step, token in enumerate(completion):
                self.states[row, step] = self.index[completion[:step]]
                self.actions[row, step] = token
                self.mask[row, step] = True
            self.last[row, len(completion) - 1] = True
        self.rewards = self.reward_table[self.states, self.actions]  # (B, T)

    def logprobs(self, logits=None):
        """log pi(a_t | s_t) of every step of every completion, garbage on padding."""
        logp = (self.logits if logits is None else logits).log_softmax(-1)
        return pad(logp[self.states, self.actions], self.mask, POISON)

    def total(self, x):
        """The sum over the real steps of each completion."""
        return torch.where(self.mask, x, 0).sum(1)

    def probs(self, logits=None):
        return self.total(self.logprobs(logits)).exp()

    def gradient(self, objective):
        return torch.autograd.grad(objective, self.logits)[0]

    def true_gradient(self):
        """Of J = sum_y pi(y) R(y)."""
        return self.gradient((self.probs() * self.total(self.rewards)).sum())

    def kl(self):
        """KL(policy || reference) of whole completions."""
        p = self.probs()
        return (p * (p.log() - self.probs(self.ref_logits).log())).sum()

    def reverse_kl(self):
        """KL(reference || policy) of whole completions."""
        q = self.probs(self.ref_logits)
        return (q * (q.log() - self.probs().log())).sum()

    def true_values(self):
        """V(s) = E[sum of the rewards after s | s], from its definition, for every prefix."""
        probs = self.probs().detach()
        values = torch.zeros(len(self.index), dtype=torch.float64)
        for prefix, state in self.index.items():
            n = len(prefix)
            through = [i for i, c in enumerate(self.completions) if c[:n] == prefix]
            ahead = torch.stack(
                [self.rewards[i, n : len(self.completions[i])].sum() for i in through]
            )
            values[state] = (probs[through] * ahead).sum() / probs[through].sum()
        return values

    def rollout(self, values=None, rewards=None, **fields):
        """All completions as the rows of a rollout, with garbage on the padding."""
        values = torch.zeros(len(self.index), dtype=torch.float64) if values is None else values
        at = values[self.states]
        after = torch.cat([at[:, 1:], torch.zeros_like(at[:, :1])], dim=1)
        return Rollout(
            inputs=self.states,
            actions=self.actions,
            logprobs=self.logprobs().detach(),
            values=pad(at, self.mask, POISON),
            next_values=pad(torch.where(self.last, 0.0, after), self.mask, POISON),
            rewards=pad(self.rewards if rewards is None else rewards, self.mask, POISON),
            ends=pad(self.last.double(), self.mask, POISON),
            mask=self.mask,
            **fields,
        )

    def expected_gradient(self, loss, samples=1):
        """sum_y pi(y) * gradient of loss(y), over all batches y of `samples` completions.

        `loss` takes the batch's rows.
        """
        every = torch.arange(len(self.completions))
        batches = torch.cartesian_prod(*[every] * samples).reshape(-1, samples)
        weights = self.probs().detach()[batches].prod(1)
        return self.gradient((weights * torch.vmap(loss)(batches)).sum())

    def policy(self, **options):
        return TablePolicy(self.logits, self.some_values, **options)


def pad(x, mask, filling):
    return torch.where(mask.bool(), x, torch.full_like(x, filling))


def ragged_rollout(rows=8, columns=5, states=6, actions=3, seed=0, dtype=torch.float64):
    """A random rollout of unequal lengths, drawn from the first policy of `policy_of`."""
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)

    lengths = torch.randint(1, columns + 1, (rows, 1), generator=generator)
    lengths[0] = columns
    step = torch.arange(columns)
    rollout = Rollout(
        inputs=torch.randint(states, (rows, columns), generator=generator),
        actions=torch.randint(actions, (rows, columns), generator=generator),
        logprobs=normal(),
        values=normal(),
        next_values=normal(),
        rewards=normal(),
        ends=(step == lengths - 1).to(dtype),
        mask=step < lengths,
        ref_logprobs=normal() - 1,
        kl_coef=0.1,
        group_size=2,
    )
    policy = policy_of(states, actions, dtype)
    with torch.no_grad():
        return replace(rollout, logprobs=policy.evaluate(rollout).logprobs)


def policy_of(states=6, actions=3, dtype=torch.float64, **options):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(states, actions, generator=generator, dtype=torch.float64).to(dtype)
    values = torch.randn(states, generator=generator, dtype=torch.float64).to(dtype)
    return TablePolicy(logits, values, **options)
