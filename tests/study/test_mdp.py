"""Tables against textbook values, Bellman's equations, finite differences and simulation."""

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.study.mdp import EXAMPLES, TabularMDP, gridworld, two_state

BETA = 0.3


def close(a, b, tolerance=1e-9):
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    assert_close(a, b, atol=tolerance, rtol=0)


def random_mdp(seed=0, states=4, actions=3, gamma=0.9):
    generator = torch.Generator().manual_seed(seed)
    transitions = torch.rand(states, actions, states, generator=generator).double()
    transitions *= 0.95 / transitions.sum(-1, keepdim=True)  # and 0.05 to end
    rewards = torch.randn(states, actions, generator=generator).double()
    start = torch.rand(states, generator=generator).double()
    return TabularMDP(transitions, rewards, start / start.sum(), gamma)


def logits_for(mdp, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mdp.rewards.shape, generator=generator).double()


def walk_of_five():
    """Left or right from the middle of five; 1 for leaving on the right."""
    transitions, rewards = torch.zeros(5, 2, 5), torch.zeros(5, 2)
    for s in range(5):
        if s > 0:
            transitions[s, 0, s - 1] = 1
        if s < 4:
            transitions[s, 1, s + 1] = 1
    rewards[4, 1] = 1
    return TabularMDP(transitions, rewards, torch.eye(5)[2])


# Values that others have worked out


def test_the_random_walk_of_sutton_and_barto():
    """Example 6.2: 1/6 ... 5/6."""
    answer = walk_of_five().exact(torch.zeros(5, 2))
    close(answer.values, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    close(answer.objective, 0.5)
    close(answer.occupancy, [1, 2, 3, 2, 1])  # 9 = 3 * 3 steps on average


def test_the_grid_of_russell_and_norvig():
    """Figure 17.3: the utilities with a step cost of 0.04."""
    best = gridworld().optimum()
    names = gridworld().states
    utilities = {
        "(1, 1)": 0.705, "(2, 1)": 0.655, "(3, 1)": 0.611, "(4, 1)": 0.388, "(1, 2)": 0.762,
        "(3, 2)": 0.660, "(1, 3)": 0.812, "(2, 3)": 0.868, "(3, 3)": 0.918,
    }  # fmt: skip
    assert set(names) == set(utilities)
    for name, value in zip(names, best.values.tolist(), strict=True):
        assert value == pytest.approx(utilities[name], abs=6e-4)
    chosen = dict(zip(names, best.probs.argmax(1).tolist(), strict=True))
    up, left, right = 0, 2, 3
    assert chosen["(1, 1)"] == up and chosen["(3, 1)"] == left and chosen["(1, 3)"] == right


def test_a_reward_of_one_for_ever_is_worth_one_over_one_minus_gamma():
    mdp = TabularMDP(torch.ones(1, 2, 1), torch.ones(1, 2), torch.ones(1), 0.95)
    answer = mdp.exact(torch.tensor([[0.3, -1.0]]))
    close(answer.values, [20.0])
    close(answer.occupancy, [20.0])
    close(answer.gradient, torch.zeros(1, 2))


def test_a_bandit_by_hand():
    """p(1-p) is the slope of a Bernoulli bandit's value."""
    mdp = TabularMDP(torch.zeros(1, 2, 1), torch.tensor([[1.0, 0.0]]), torch.ones(1))
    answer = mdp.exact(torch.tensor([[0.7, 0.0]]))
    p = float(torch.sigmoid(torch.tensor(0.7).double()))
    close(answer.objective, p, 1e-7)
    close(answer.gradient, [[p * (1 - p), -p * (1 - p)]], 1e-7)
    close(answer.advantages, [[1 - p, -p]], 1e-7)


def test_the_two_state_example_by_hand():
    """Always stay: 0.2 / (1 - 0.9) = 2 in poor; V(rich) = 1 + 0.9 (0.1 * 2 + 0.9 V(rich))."""
    answer = two_state().exact(torch.tensor([[50.0, 0.0], [50.0, 0.0]]))
    close(answer.values, [2.0, 1.18 / 0.19])
    best = two_state().optimum()
    assert best.probs.argmax(1).tolist() == [1, 0]


# Equations that every table obeys


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_the_policy_gradient_theorems_and_finite_differences(seed, beta):
    mdp = random_mdp(seed)
    logits, ref = logits_for(mdp), logits_for(mdp, 2)
    answer = mdp.exact(logits, ref, beta)
    close(answer.gradient, answer.occupancy[:, None] * answer.probs * answer.advantages)
    for s, a in [(0, 0), (2, 1), (3, 2)]:
        nudge = torch.zeros_like(logits)
        nudge[s, a] = 1e-5
        up, down = (mdp.exact(logits + k * nudge, ref, beta).objective for k in (1, -1))
        close(answer.gradient[s, a], (up - down) / 2e-5, 1e-7)


def test_values_obey_bellmans_equations_and_advantages_average_to_zero():
    mdp = random_mdp()
    logits, ref = logits_for(mdp), logits_for(mdp, 2)
    answer = mdp.exact(logits, ref, BETA)
    log_ratio = logits.log_softmax(-1) - ref.log_softmax(-1)
    q = mdp.rewards - BETA * log_ratio + mdp.gamma * mdp.transitions @ answer.values
    close(answer.q_values, q)
    close(answer.values, (answer.probs * q).sum(1))
    close((answer.probs * answer.advantages).sum(1), torch.zeros(4))
    following = torch.einsum("sa,sax->sx", answer.probs, mdp.transitions)
    close(answer.occupancy, mdp.start + mdp.gamma * answer.occupancy @ following)
    close(
        answer.objective, answer.occupancy @ (answer.probs * mdp.rewards).sum(1) - BETA * answer.kl
    )


def test_the_penalty_and_the_entropy_are_the_same_sum_for_a_uniform_reference():
    """KL to uniform = log A - entropy, at every step."""
    mdp = random_mdp()
    answer = mdp.exact(logits_for(mdp), torch.zeros(4, 3), BETA)
    steps = float(answer.occupancy.sum())
    close(answer.kl, steps * torch.log(torch.tensor(3.0).double()) - answer.entropy)


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_optimum_is_worth_what_it_says_and_cannot_be_improved(beta, gamma):
    mdp = random_mdp(gamma=gamma)
    ref = logits_for(mdp, 2)
    best = mdp.optimum(ref, beta)
    close(best.probs.sum(1), torch.ones(4))
    answer = mdp.exact(best.probs.clamp(min=1e-300).log(), ref, beta)
    close(answer.objective, best.objective, 1e-8)
    close(answer.values, best.values, 1e-8)
    if beta:
        close(answer.gradient, torch.zeros(4, 3), 1e-8)
        close(answer.advantages, torch.zeros(4, 3), 1e-8)
    for seed in range(20):
        assert mdp.exact(logits_for(mdp, seed), ref, beta).objective < best.objective


def test_equally_good_actions_share():
    mdp = TabularMDP(torch.zeros(1, 3, 1), torch.tensor([[1.0, 1.0, 0.0]]), torch.ones(1))
    close(mdp.optimum().probs, [[0.5, 0.5, 0.0]])


def test_a_horizon_is_backward_induction():
    mdp, steps = random_mdp(), 3
    logits, ref = logits_for(mdp), logits_for(mdp, 2)
    answer = mdp.with_horizon(steps).exact(logits.repeat(steps, 1), ref.repeat(steps, 1), BETA)
    probs = logits.softmax(-1)
    values = torch.zeros(4).double()
    for t in (2, 1, 0):
        log_ratio = logits.log_softmax(-1) - ref.log_softmax(-1)
        q = mdp.rewards - BETA * log_ratio + mdp.gamma * mdp.transitions @ values
        values = (probs * q).sum(1)
        close(answer.values[4 * t : 4 * t + 4], values)
    close(answer.objective, mdp.start @ values)
    best = mdp.with_horizon(steps).optimum()
    values = torch.zeros(4).double()
    for _ in range(steps):
        values = (mdp.rewards + mdp.gamma * mdp.transitions @ values).max(1).values
    close(best.objective, mdp.start @ values)


def test_a_long_horizon_is_none():
    mdp = random_mdp()
    logits = logits_for(mdp)
    long = mdp.with_horizon(60).exact(logits.repeat(60, 1))
    assert long.objective == pytest.approx(mdp.exact(logits).objective, abs=1e-3)


def simulated(mdp, probs, rows, steps, generator):
    """Discounted returns (rows,) and discounted visits (rows, S) of sampled episodes."""
    count = len(mdp.states)
    state = torch.multinomial(mdp.start, rows, True, generator=generator)
    returns, visits = torch.zeros(rows).double(), torch.zeros(rows, count).double()
    running = torch.ones(rows).bool()
    for t in range(steps):
        action = torch.multinomial(probs[state], 1, generator=generator)[:, 0]
        returns += running * mdp.gamma**t * mdp.rewards[state, action]
        visits[torch.arange(rows), state] += running * mdp.gamma**t
        following = mdp.transitions[state, action]
        ending = (1 - following.sum(-1, keepdim=True)).clamp(min=0)
        following = torch.cat([following, ending], -1)
        later = torch.multinomial(following, 1, generator=generator)[:, 0]
        running &= later < count
        state = torch.where(running, later, state)
    return returns, visits


@pytest.mark.parametrize("name", EXAMPLES)
def test_simulation_agrees(name):
    mdp = EXAMPLES[name]()
    answer = mdp.exact(logits_for(mdp) / 2)
    returns, visits = simulated(mdp, answer.probs, 4000, 150, torch.Generator().manual_seed(0))
    error = float(returns.std() / 4000**0.5)
    assert abs(float(returns.mean()) - answer.objective) < 4 * error
    assert_close(visits.mean(0), answer.occupancy, atol=0.15, rtol=0.1)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="need transitions"):
        TabularMDP(torch.ones(2, 2, 2), torch.ones(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match="transitions must be probabilities"):
        TabularMDP(torch.ones(2, 2, 2), torch.ones(2, 2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="gamma must be"):
        TabularMDP(torch.zeros(1, 1, 1), torch.ones(1, 1), torch.ones(1), 2.0)
    endless = TabularMDP(torch.ones(1, 1, 1), torch.ones(1, 1), torch.ones(1), 1.0)
    with pytest.raises(ValueError, match="never end and gamma is 1"):
        endless.exact(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="use gamma < 1"):
        endless.optimum(tolerance=1e-30)
    for ask in (endless.exact, endless.optimum):
        with pytest.raises(ValueError, match="no reference"):
            ask(*([torch.zeros(1, 1)] if ask == endless.exact else []), kl_coef=0.1)
