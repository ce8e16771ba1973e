"""Each algorithm finds the optimum of the KL-regularised objective, which is known exactly.

J(pi) = E[r] - beta KL(pi || ref) is largest at pi* = ref exp(r / beta) / Z, where it is
J* = beta log Z. The language model here is a table with a row of logits for every prefix, so every
completion is known; sampling, the rollout and the learner are those of `rlhf-pg train`.
"""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import GPT2Config

from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import language_rollout, reference_logprobs
from rlhf_pg.language.sampling import sample

VOCABULARY, LENGTH, BETA, EOS = 5, 3, 0.5, 0
STATES = (VOCABULARY**LENGTH - 1) // (VOCABULARY - 1)


class TableLM(nn.Module):
    """Logits (and a state of its own, for the critic) after every prefix, numbered as in a heap."""

    def __init__(self, logits):
        super().__init__()
        self.config = GPT2Config(vocab_size=VOCABULARY, n_embd=STATES, n_head=1, n_layer=1)
        self.logits = nn.Parameter(logits.clone())

    def forward(self, input_ids, past_key_values, logits_to_keep, **_):
        tokens = input_ids
        if past_key_values is not None:
            as_keys = input_ids[:, None, :, None].float()
            tokens = past_key_values.update(as_keys, as_keys, 0)[0][:, 0, :, 0].long()
        states = [torch.zeros_like(tokens[:, 0])]  # after the prompt, which is one token
        for token in tokens[:, 1:].unbind(1):
            states.append((states[-1] * VOCABULARY + 1 + token).clamp(max=STATES - 1))
        state = torch.stack(states, 1)[:, -logits_to_keep:]
        hidden = nn.functional.one_hot(state, STATES).float()
        return SimpleNamespace(
            logits=self.logits[state], hidden_states=(hidden,), past_key_values=past_key_values
        )


class OnePrompt:
    """A tokenizer whose only prompt is one token, and whose texts are not used."""

    all_special_ids = [EOS]
    eos_token_id = pad_token_id = EOS

    def __call__(self, texts, **_):
        return {"input_ids": [[1]] * len(texts)}

    def batch_decode(self, rows):
        return [""] * len(rows)


def number(completion):
    """Of a completion's last state, as in a heap."""
    state = 0
    for token in completion:
        state = state * VOCABULARY + 1 + token
    return state


class Task:
    """Every completion, what each is worth, and the reference's probability of it."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.ref_logits = torch.randn(STATES, VOCABULARY, generator=generator)
        words = range(1, VOCABULARY)
        ended = [(*p, EOS) for n in range(LENGTH) for p in product(words, repeat=n)]
        self.completions = ended + list(product(words, repeat=LENGTH))
        self.row = torch.full((STATES * VOCABULARY + 1,), -1)
        self.row[[number(completion) for completion in self.completions]] = torch.arange(
            len(self.completions)
        )
        self.rewards = torch.randn(len(self.completions), generator=generator).double()
        self.ref = self.probs(self.ref_logits)

    def probs(self, logits):
        """The probability of every completion, multiplied out by hand."""
        logp = logits.detach().double().log_softmax(-1)
        totals = []
        for completion in self.completions:
            state, total = 0, 0.0
            for token in completion:
                total = total + logp[state, token]
                state = state * VOCABULARY + 1 + token
            totals.append(total)
        return torch.stack(totals).exp()

    def score(self, done):
        state = torch.zeros_like(done.ids[:, 0])
        for token, real in zip(done.ids.unbind(1), done.mask.unbind(1), strict=True):
            state = torch.where(real, state * VOCABULARY + 1 + token, state)
        rows = self.row[state]
        assert (rows >= 0).all()
        return self.rewards[rows].float()

    def optimum(self, beta=BETA):
        """pi*, and J* = beta log Z."""
        weights = self.ref * (self.rewards / beta).exp()
        return weights / weights.sum(), float(beta * weights.sum().log())

    def objective(self, probs):
        return float(probs @ self.rewards - BETA * kl(probs, self.ref))


def kl(p, q):
    return float((p * (p / q).log()).sum())


def trained(task, config, updates, rows=512, seed=0, group=16):
    """The probability of every completion after training from the reference."""
    torch.manual_seed(seed)
    critic = "shared" if config.baseline == "critic" else "none"
    policy = LanguagePolicy(TableLM(task.ref_logits), critic=critic)
    reference = LanguagePolicy(TableLM(task.ref_logits), critic="none")
    learner = Learner(policy, replace(config, lr_decay_updates=updates))
    generator = torch.Generator().manual_seed(seed)
    compares = config.baseline in ("leave-one-out", "group", "group-centred")
    for _ in range(updates):
        done = sample(policy, OnePrompt(), [""] * rows, LENGTH, generator)
        rollout = language_rollout(
            done,
            task.score(done),
            reference_logprobs(reference, done),
            BETA,
            config.kl_in,
            group_size=group if compares else 1,
        )
        learner.update(rollout)
    return task.probs(policy.model.logits)


@pytest.fixture(scope="module")
def task():
    return Task()


def test_every_completion_is_there_and_the_optimum_is_one(task):
    assert len(set(task.completions)) == 1 + 4 + 16 + 64
    assert sorted(task.row[task.row >= 0].tolist()) == list(range(85))
    best, value = task.optimum()
    assert float(task.ref.sum()) == pytest.approx(1, abs=1e-6)
    assert task.objective(best) == pytest.approx(value, abs=1e-9)
    assert task.objective(task.ref) < 0.5 * value  # there is something to learn


SETTINGS = {"lr": 0.1, "max_grad_norm": 0.0}  # the rate falls to 0
LONGER = {"actor-critic": 300}  # its advantages are no better than the critic is so far, so it
SLOWER = {"actor-critic": {"lr": 0.07}}  # takes smaller steps, and more of them
SHORTER = {"ppo": 30}  # 16 steps to a rollout


def assert_optimal(task, found):
    best, value = task.optimum()
    assert task.objective(found) >= 0.98 * value
    assert kl(found, best) < 0.02 and kl(best, found) < 0.02


@pytest.mark.parametrize(
    "name", ["reinforce", "reinforce-baseline", "actor-critic", "a2c", "ppo", "rloo"]
)
def test_it_comes_within_a_fiftieth_of_a_nat_of_the_optimum(task, name):
    """PPO too, with its clip, whitening and token mean: with the KL in the reward, every advantage
    is 0 at pi*, and whatever scales it leaves it there."""
    updates = LONGER.get(name) or SHORTER.get(name) or 120
    config = algorithm(name, **SETTINGS | SLOWER.get(name, {}))
    assert_optimal(task, trained(task, config, updates))


def test_grpo_goes_elsewhere_because_it_divides_by_the_groups_deviation(task):
    """Its advantages have deviation 1 however small the differences left, so the KL weighs less
    the surer the policy is: it is sharper than pi*, and worse by the objective."""
    best, value = task.optimum()
    found = trained(task, algorithm("grpo", **SETTINGS), 120)
    assert kl(found, best) > 0.3 and task.objective(found) < 0.8 * value
    assert found @ task.rewards > best @ task.rewards
    assert kl(found, task.ref) > kl(best, task.ref)


@pytest.mark.parametrize("baseline", ["group-centred", "leave-one-out"])
def test_grpo_without_the_deviation_comes_as_near_as_the_others(task, baseline):
    """All else as in GRPO: K samples of a prompt, the clip, the token mean, k2 in the loss."""
    assert_optimal(task, trained(task, algorithm("grpo", baseline=baseline, **SETTINGS), 120))


def test_a_centred_group_of_k_is_a_kl_coefficient_too_large_by_k_over_k_minus_1(task):
    """The sample is in its own group's mean, so scores shrink by (K-1)/K and the KL does not."""
    config = algorithm("grpo", baseline="group-centred", **SETTINGS)
    found = trained(task, config, 200, group=2)
    own = task.optimum(beta=2 * BETA)[0]
    assert kl(found, own) < 0.02 < kl(found, task.optimum()[0])
