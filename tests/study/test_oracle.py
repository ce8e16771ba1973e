"""The oracle against second ways: definitions by hand, finite differences, other identities."""

import math
from itertools import product

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.rollout import Evaluation, Rollout
from rlhf_pg.language.enumeration import optima
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.study import oracle
from rlhf_pg.study.oracle import exact, language_oracle, policy_parameters
from rlhf_pg.study.tasks import small_task

BETA, LENGTH, WORDS = 0.3, 3, 4  # word 0 ends an episode
PREFIXES = [p for n in range(LENGTH) for p in product(range(1, WORDS), repeat=n)]
EPISODES = [(*p, 0) for p in PREFIXES] + list(product(range(1, WORDS), repeat=LENGTH))


class Table(torch.nn.Module):
    """Logits of its own after every prefix; what it says of padding is nonsense."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())
        self.idle = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

    def evaluate(self, rollout):
        logp = self.logits.log_softmax(-1)[rollout.inputs]
        logp = logp.gather(-1, rollout.actions[..., None])[..., 0]
        return Evaluation(torch.where(rollout.mask, logp, 1e6), torch.zeros_like(logp))


def table(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(PREFIXES), WORDS, generator=generator, dtype=torch.float64)


def written_down():
    """Every episode as a rollout, rewards at every step, nonsense on the padding."""
    shape = (len(EPISODES), LENGTH)
    states, actions = torch.zeros(shape).long(), torch.zeros(shape).long()
    mask, rewards = torch.zeros(shape).bool(), torch.full(shape, math.inf).double()
    for i, episode in enumerate(EPISODES):
        for t, word in enumerate(episode):
            states[i, t], actions[i, t] = PREFIXES.index(episode[:t]), word
            mask[i, t], rewards[i, t] = True, REWARDS[states[i, t], word]
    nothing = torch.zeros(shape).double()
    return Rollout(states, actions, nothing, nothing, nothing, rewards, nothing, mask)


REWARDS, LOGITS, REF_LOGITS = table(1), table(2), table(3)
POLICY, ROLLOUT = Table(LOGITS), written_down()


def steps(episode, of):
    """Table entries along an episode."""
    return [of[PREFIXES.index(episode[:t]), word] for t, word in enumerate(episode)]


REF = torch.zeros(len(EPISODES), LENGTH).double()
for i, episode in enumerate(EPISODES):
    REF[i, : len(episode)] = torch.stack(steps(episode, REF_LOGITS.log_softmax(-1)))


def by_hand(logits, beta=BETA, gamma=1.0, start=()):
    """E[sum_t gamma^t (r_t - beta k1_t) | start], counted episode by episode."""
    logp, ref = logits.log_softmax(-1), REF_LOGITS.log_softmax(-1)
    value = 0.0
    for episode in EPISODES:
        if episode[: len(start)] != start:
            continue
        n = len(start)
        own, other = steps(episode, logp)[n:], steps(episode, ref)[n:]
        rewards = zip(steps(episode, REWARDS)[n:], own, other, strict=True)
        returns = sum(gamma**k * (r - beta * (a - b)) for k, (r, a, b) in enumerate(rewards))
        value = value + sum(own, torch.zeros(()).double()).exp() * returns
    return value


def everything(beta=BETA, gamma=1.0, **options):
    return exact(POLICY, ROLLOUT, REF, beta, gamma, **options)


def close(a, b, tolerance=1e-9):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("beta", [0.0, BETA])
def test_the_objective_and_its_gradient_are_those_counted_by_hand(beta, gamma):
    answer = everything(beta, gamma)
    logits = LOGITS.clone().requires_grad_()
    objective = by_hand(logits, beta, gamma)
    (gradient,) = torch.autograd.grad(objective, logits)
    close(answer.probs.sum(), 1)
    close(answer.objective, objective.detach())
    close(answer.gradient, torch.cat([gradient.flatten(), torch.zeros(2)]))  # and `idle` is idle


def test_the_gradient_is_that_of_finite_differences():
    gradient = everything().gradient[:-2].reshape(LOGITS.shape)
    for state, word in [(0, 0), (0, 2), (2, 1), (7, 3)]:
        nudge = torch.zeros_like(LOGITS)
        nudge[state, word] = 1e-5
        slope = (by_hand(LOGITS + nudge) - by_hand(LOGITS - nudge)) / 2e-5
        close(gradient[state, word], slope, 1e-8)


def identity(weights):
    """E[sum_t weights_t grad log pi(a_t|s_t)], weights (N, T)."""
    answer = everything()
    logp = POLICY.evaluate(ROLLOUT).logprobs
    weighed = answer.probs[:, None] * torch.where(ROLLOUT.mask, logp * weights, 0.0)
    return torch.autograd.grad(weighed.sum(), POLICY.logits)[0].flatten()


def test_the_gradient_is_williamss_and_the_policy_gradient_theorems():
    """The return, Q or A as the weight of each step: three other roads to the same gradient."""
    answer = everything()
    for weights in (answer.returns[:, None], answer.q_values, answer.advantages):
        close(identity(weights), answer.gradient[:-2])


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_values_are_what_their_definition_says_at_every_prefix(gamma):
    answer, logp = everything(gamma=gamma), LOGITS.log_softmax(-1)
    for row, episode in enumerate(EPISODES):
        for t, word in enumerate(episode):
            state = PREFIXES.index(episode[:t])
            close(answer.values[row, t], by_hand(LOGITS, gamma=gamma, start=episode[:t]))
            log_ratio = logp[state, word] - REF_LOGITS.log_softmax(-1)[state, word]
            q = REWARDS[state, word] - BETA * log_ratio
            if t + 1 < len(episode):
                q = q + gamma * by_hand(LOGITS, gamma=gamma, start=episode[: t + 1])
            close(answer.q_values[row, t], q)


def test_advantages_average_to_zero_at_every_prefix():
    answer, probs = everything(), LOGITS.softmax(-1)
    at = {}
    for row, episode in enumerate(EPISODES):
        for t, word in enumerate(episode):
            at[episode[:t], word] = answer.advantages[row, t]
    assert len(at) == probs.numel()
    for state, prefix in enumerate(PREFIXES):
        close(sum(probs[state, word] * at[prefix, word] for word in range(WORDS)), 0)


def test_padding_is_zero_everywhere():
    answer = everything()
    for x in (answer.logprobs, answer.ref_logprobs, answer.values, answer.q_values):
        assert not x[~ROLLOUT.mask].any()


def test_kl_and_entropy_are_those_of_whole_episodes():
    answer = everything()
    p = answer.probs
    q = torch.stack([sum(steps(e, REF_LOGITS.log_softmax(-1))).exp() for e in EPISODES])
    close(answer.kl, (p * (p / q).log()).sum())
    close(answer.entropy, -(p * p.log()).sum())
    close(answer.objective, by_hand(LOGITS, beta=0.0) - BETA * answer.kl)


def test_no_policy_does_better_than_the_optimum_and_it_does_as_well_as_it_says():
    answer = everything()
    scores = torch.stack([sum(steps(e, REWARDS)) for e in EPISODES])
    ref = REF.sum(1)

    def value(p):
        return float((p * (scores - BETA * (p.log() - ref))).sum())

    close(answer.best.sum(), 1)
    close(value(answer.best), answer.best_objective)
    close(answer.best_objective, BETA * ((ref + scores / BETA).exp().sum()).log())
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        noise = 0.1 * torch.randn(len(EPISODES), generator=generator).double()
        other = (answer.best.log() + noise).softmax(0)
        assert value(other) < answer.best_objective


def test_without_a_penalty_the_optimum_is_the_best_score():
    best = everything(beta=0.0)
    assert best.best is None
    close(best.best_objective, max(float(sum(steps(e, REWARDS))) for e in EPISODES))
    assert everything(gamma=0.9).best_objective is None


def test_chunks_change_nothing(monkeypatch):
    whole = everything()
    monkeypatch.setattr(oracle, "CHUNK", 7)
    parts = everything()
    close(parts.gradient, whole.gradient, 1e-12)
    close(parts.values, whole.values, 1e-12)


def test_the_gradient_can_be_left_out_or_asked_of_some_parameters():
    assert everything(parameters=[]).gradient.numel() == 0
    close(everything(parameters=[POLICY.idle]).gradient, torch.zeros(2))


def test_an_action_of_probability_zero_costs_and_hinders_nothing():
    logits = LOGITS.clone()
    logits[0, 1] = -math.inf
    answer = exact(Table(logits), ROLLOUT, REF, BETA)
    near = LOGITS.clone()
    near[0, 1] = -60.0
    close(answer.objective, by_hand(near))
    close(answer.entropy, exact(Table(near), ROLLOUT, REF, BETA).entropy)
    assert answer.values.isfinite().all() and answer.q_values.isfinite().all()


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="sum to 0.9.*exactly once"):
        exact(POLICY, ROLLOUT[1:], REF[1:])
    with pytest.raises(ValueError, match="no reference"):
        exact(POLICY, ROLLOUT, None, 0.1)


# A language model


@pytest.fixture(scope="module")
def task():
    return small_task(max_new_tokens=3)


@pytest.fixture(scope="module")
def answer(task):
    return ask(task)


def ask(task, beta=BETA, **options):
    return language_oracle(
        task.policy, task.reference, task.tokenizer, task.prompt, task.reward,
        task.max_new_tokens, beta, **options,
    )  # fmt: skip


def plainly(task, policy):
    """log p of every completion by plain calls of the model, in the oracle's order."""
    vocabulary, eos = len(task.tokenizer), task.tokenizer.eos_token_id
    words = [i for i in range(vocabulary) if i != eos]
    rows = [(*p, eos) for n in range(3) for p in product(words, repeat=n)]
    rows += list(product(words, repeat=3))
    prompt = task.tokenizer(task.prompt)["input_ids"]
    total = []
    for length in (1, 2, 3):
        tokens = torch.tensor([row for row in rows if len(row) == length])
        ids = torch.cat([torch.tensor([prompt] * len(tokens)), tokens], 1)
        logp = policy.model(ids).logits.double().log_softmax(-1)[:, len(prompt) - 1 : -1]
        total.append(logp.gather(2, tokens[..., None]).sum((1, 2)))
    return torch.cat(total), [task.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def test_a_language_models_answers_are_those_of_plain_forwards(task, answer):
    logp, texts = plainly(task, task.policy)
    ref, _ = plainly(task, task.reference)
    scores = torch.tensor(task.reward(completions=texts)).double()
    objective = (logp.exp() * (scores - BETA * (logp - ref.detach()))).sum()
    gradient = torch.autograd.grad(objective, list(task.policy.model.parameters()))
    flat = torch.cat([g.flatten() for g in gradient]).double()
    close(answer.probs, logp.exp().detach(), 1e-5)
    close(answer.objective, objective.detach(), 1e-5)
    assert float((answer.gradient - flat).norm() / flat.norm()) < 1e-4
    assert len(answer.gradient) == sum(p.numel() for p in policy_parameters(task.policy))


def test_a_small_step_along_the_gradient_gains_its_squared_length(task, answer):
    moved = LanguagePolicy(small_task(max_new_tokens=3).policy.model)
    size = 1e-3 / float(answer.gradient.norm())
    at = 0
    with torch.no_grad():
        for p in moved.model.parameters():
            p += size * answer.gradient[at : at + p.numel()].reshape(p.shape).float()
            at += p.numel()
    task_there = small_task(max_new_tokens=3)
    task_there.policy = moved
    gain = ask(task_there, parameters=[]).objective - answer.objective
    assert gain == pytest.approx(size * float(answer.gradient @ answer.gradient), rel=0.02)


def test_the_optimum_is_that_of_the_enumeration(task, answer):
    rows = {"prompt": [task.prompt]}
    (other,) = optima(task.reference, task.tokenizer, rows, task.reward, 3, [BETA])
    assert answer.best_objective == pytest.approx(other.objective, abs=1e-5)
    assert answer.objective < answer.best_objective


def test_a_cut_completion_pays_for_its_missing_end_and_columns_reach_the_reward(task):
    seen = {}

    def reward(completions, topic, **_):
        seen["topics"] = set(topic)
        return [0.0] * len(completions)

    cut = language_oracle(
        task.policy, None, task.tokenizer, task.prompt, reward, 2,
        missing_eos_penalty=2.0, columns={"topic": "plot"},
    )  # fmt: skip
    eos = task.tokenizer.eos_token_id
    unfinished = cut.episodes.actions[:, -1] != eos
    unfinished &= cut.episodes.mask[:, -1]
    assert cut.objective == pytest.approx(-2 * float(cut.probs[unfinished].sum()), abs=1e-6)
    assert seen["topics"] == {"plot"} and cut.kl == 0 and cut.ref_logprobs is None


def test_too_many_completions_are_counted_not_made(task):
    with pytest.raises(ValueError, match="8 tokens and 6 steps make 137,257 completions.*lower"):
        language_oracle(task.policy, None, task.tokenizer, task.prompt, task.reward, 6)
    assert len(ask(small_task(), limit=2801).probs) == 2801
    with pytest.raises(ValueError, match="2,801"):
        ask(small_task(), limit=2800)
