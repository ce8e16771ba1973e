"""The playground in a browser: its numbers are those of the library, and everything moves."""

import math
import random
import shutil
from itertools import product

import pytest
import torch

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.losses import policy_gradient_loss, ppo_clip_loss
from rlhf_pg.core.returns import gae, rewards_to_go, td_errors
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.study import mdp
from rlhf_pg.study.config import PlaygroundConfig
from rlhf_pg.study.examples import bernoulli_bandit
from rlhf_pg.study.playground import main

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome")
     if (found := shutil.which(name))), None,
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; Debian: apt-get install chromium"
)
Double = torch.float64
SECTIONS = ("bandit", "two", "walk", "grid", "gauss")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    return main(PlaygroundConfig(output=str(tmp_path_factory.mktemp("page") / "playground.html")))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser, page_file):
    """The page, shared by the tests that only compute or start from Reset."""
    page = browser.new_page()
    problems = []
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(page_file.as_uri())
    yield page
    assert not problems


def js(tab, expression, *arguments):
    return tab.evaluate(f"(given) => ({expression})", list(arguments))


def close(found, expected, tolerance=1e-6):
    got = torch.as_tensor(found, dtype=Double)
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=Double), rtol=0, atol=tolerance)


def test_the_file_is_small_and_closed_to_the_network(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000 and "default-src 'none'" in text
    assert text.count("http://") == text.count("http://www.w3.org/2000/svg") and "https" not in text


def test_the_generator_is_the_same_everywhere(tab):
    """mulberry32, written down again."""
    state, expected = 7, []
    for _ in range(5):
        state = (state + 0x6D2B79F5) % 2**32
        x = ((state ^ state >> 15) * (state | 1)) % 2**32
        x ^= (x + ((x ^ x >> 7) * (x | 61)) % 2**32) % 2**32
        expected.append((x ^ x >> 14) / 2**32)
    found = js(tab, "(draw => Array.from({length: 5}, draw))(playground.random(7))")
    assert found == expected


def test_the_bandits_moments_are_those_of_the_worked_example(tab):
    for p in (0.3, 0.9):
        rows = bernoulli_bandit(lambda text: None, p=p, samples=10)["baselines"]
        for b, name in ((0.0, "0"), (p, "E[r] = p"), (1 - p, "best = 1 - p"), (10.0, "10")):
            found = js(tab, "playground.bandit.exact(given[0], given[1])", p, b)
            close([found["mean"], found["variance"]], rows[name][:2])
            close([found["gradient"], found["best"]], [p * (1 - p), 1 - p])


def test_returns_td_errors_and_gae_are_those_of_the_library(tab):
    torch.manual_seed(0)
    for _ in range(5):
        r, v, following = torch.randn(3, 1, 7, dtype=Double)
        gamma, lam = torch.rand(2).tolist()
        ends = torch.zeros(1, 7, dtype=Double)
        ends[:, -1] = 1
        lists = [x[0].tolist() for x in (r, v, following)]
        close(js(tab, "playground.gae(...given)", *lists, gamma, lam),
              gae(r, v, following, ends, gamma, lam)[0])  # fmt: skip
        close(js(tab, "playground.tdErrors(...given)", *lists, gamma),
              td_errors(r, v, following, gamma)[0])  # fmt: skip
        close(js(tab, "playground.discountedSum(...given)", lists[0], gamma),
              rewards_to_go(r, ends, gamma)[0])  # fmt: skip


# -- the two states --------------------------------------------------------------------------------

ALL = list(product((0, 1), repeat=4))
ACTIONS = torch.tensor(ALL)
VISITED = torch.cat([torch.zeros(16, 1, dtype=torch.long), ACTIONS.cumsum(1)[:, :-1] % 2], 1)


def logprobs(theta):
    """(16, 4): log-probabilities of all trajectories' actions."""
    chance = torch.sigmoid(theta)[VISITED]
    return torch.where(ACTIONS.bool(), chance, 1 - chance).log()


def random_task(seed):
    chance = random.Random(seed)
    theta = [chance.gauss(0, 1.5), chance.gauss(0, 1.5)]
    return theta, [[chance.gauss(0, 1), chance.gauss(0, 1)] for _ in range(2)]


@pytest.mark.parametrize("seed", range(4))
def test_the_two_states_gradient_kl_and_natural_step(tab, seed):
    theta, rewards = random_task(seed)
    at = torch.tensor(theta, dtype=Double, requires_grad=True)
    chances = logprobs(at).sum(1).exp()
    returns = torch.tensor(rewards, dtype=Double)[VISITED, ACTIONS].sum(1)
    (gradient,) = torch.autograd.grad(chances @ returns, at, retain_graph=True)
    found = js(tab, "playground.twoState.exact(...given)", theta, rewards)
    close(found["J"], float((chances @ returns).detach()))
    close(found["gradient"], gradient)

    def mean_kl(other):  # of an action, over the states that theta visits
        difference = logprobs(at.detach()) - logprobs(other)
        return (chances.detach() @ difference.sum(1)) / 4

    moved = at.detach() + torch.tensor([0.4, -0.7], dtype=Double)
    close(js(tab, "(t => t.divergence(t.exact(given[0], given[1]), given[2]))(playground.twoState)",
             theta, rewards, moved.tolist()), float(mean_kl(moved)))  # fmt: skip
    # The Fisher matrix is the KL's second derivative.
    fisher = torch.autograd.functional.hessian(mean_kl, at.detach())
    direction = torch.linalg.solve(fisher, gradient)
    expected = at.detach() + (2 * 0.01 / (gradient @ direction)).sqrt() * direction
    step = "(t => t.natural(t.exact(given[0], given[1]), given[0], given[2], 0.01))"
    close(js(tab, f"{step}(playground.twoState)", theta, rewards, gradient.tolist()), expected)
    # The KL-limited step keeps to its limit.
    within = js(tab, "(t => t.within(t.exact(given[0], given[1]), given[0], given[2], 0.01))"
                "(playground.twoState)", theta, rewards, (50 * gradient).tolist())  # fmt: skip
    assert float(mean_kl(torch.tensor(within, dtype=Double))) == pytest.approx(0.01, abs=1e-6)


def climbed(theta, old, actions, states, weights, rows, size, clip):
    """`size` up the library's PPO objective, in 400 steps; `rows` are the rows' weights."""
    at = theta.clone()
    for _ in range(400):
        at.requires_grad_(True)
        chance = torch.sigmoid(at)[states]
        now = torch.where(actions.bool(), chance, 1 - chance).log()
        scaled = weights * len(rows) * rows[:, None]
        loss = ppo_clip_loss(now, old, scaled, torch.ones_like(now), clip, "episode")
        (gradient,) = torch.autograd.grad(loss, at)
        at = (at - size / 400 * gradient).detach()
    return at


def test_the_clipped_steps_are_those_of_the_librarys_loss(tab):
    theta, rewards = [-1.2, 0.4], [[0.2, -0.3], [1.0, 0.0]]
    start = torch.tensor(theta, dtype=Double)
    A = torch.tensor(js(tab, "playground.twoState.exact(...given)", theta, rewards)["A"])
    weights = A[torch.arange(4), VISITED, ACTIONS].double()
    old = logprobs(start)
    expected = climbed(start, old, ACTIONS, VISITED, weights, old.sum(1).exp(), 6, 0.2)
    call = """(t => { const old = t.exact(given[0], given[1]), draw = playground.random(1);
      const drawn = Array.from({length: 8}, () => t.sample(draw, old, given[1], 'to-go'));
      const step = (terms) => t.clipped(old, given[0], terms, 6, 0.2);
      return {drawn, exact: step(t.expectedTerms(old)), sampled: step(t.sampledTerms(drawn))};
    })(playground.twoState)"""
    found = js(tab, call, theta, rewards)
    close(found["exact"], expected)
    steps = [[[step[name] for step in one["steps"]] for one in found["drawn"]]
             for name in ("action", "state", "weight", "score")]  # fmt: skip
    actions, states = (torch.tensor(x) for x in steps[:2])
    to_go = torch.tensor(steps[2], dtype=Double)
    chance = torch.sigmoid(start)[states]
    old = torch.where(actions.bool(), chance, 1 - chance).log()
    equal = torch.full((8,), 1 / 8, dtype=Double)
    close(found["sampled"], climbed(start, old, actions, states, to_go, equal, 6, 0.2))
    # Score times weight, summed, is the library's estimate of the gradient.
    at = start.clone().requires_grad_()
    now = torch.where(actions.bool(), torch.sigmoid(at)[states], 1 - torch.sigmoid(at)[states])
    scores = (now.log() * to_go).sum(1)
    for row, one in enumerate(found["drawn"]):
        (gradient,) = torch.autograd.grad(scores[row], at, retain_graph=True)
        close(one["estimate"], gradient)


# -- the walk, the grid and the Gaussian -----------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.6, 1.0])
def test_the_walks_values_are_those_of_its_mdp(tab, gamma):
    transitions = torch.zeros(5, 2, 5, dtype=Double)
    for state, action in product(range(5), (0, 1)):
        if 0 <= (there := state + 2 * action - 1) < 5:
            transitions[state, action, there] = 1
    rewards = torch.zeros(5, 2)
    rewards[4, 1] = 1
    task = mdp.TabularMDP(transitions, rewards, torch.eye(5)[2], gamma)
    exact = task.exact(torch.zeros(5, 2))
    close(js(tab, "playground.walk.values(given[0])", gamma), exact.values)
    close(js(tab, "playground.walk.advantage(given[0])", gamma), float(exact.advantages[2, 1]))


def test_a_walks_estimate_is_gae_and_its_mean_is_the_true_advantage(tab):
    call = """(w => { const draw = playground.random(3), V = w.critic(1, 0.2);
      const all = Array.from({length: 4000}, () => w.episode(draw));
      return {first: all[0], V, own: w.estimate(all[0], V, 1, 0.7),
        all: all.map(one => w.estimate(one, V, 1, 1))}; })(playground.walk)"""
    found = js(tab, call)
    v = torch.tensor([[found["V"][s] for s in found["first"]["states"]]], dtype=Double)
    r = torch.tensor([found["first"]["rewards"]], dtype=Double)
    ends = torch.zeros_like(r)
    ends[0, -1] = 1
    following = torch.cat([v[:, 1:], torch.zeros(1, 1)], 1)
    close(found["own"], float(gae(r, v, following, ends, 1.0, 0.7)[0, 0]))
    # With lambda 1 only the critic's error at the start is left: V is 0.2 too high there.
    estimates = torch.tensor(found["all"])
    error = float(estimates.std()) / len(estimates) ** 0.5
    assert float(estimates.mean()) == pytest.approx(1 / 6 - 0.2, abs=4 * error)


def test_the_gridworld_is_that_of_the_library(tab):
    task, chance = mdp.gridworld(), torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=chance, dtype=Double)
    exact = task.exact(logits)
    found = js(tab, "playground.gridworld.exact(given[0])", logits.tolist())
    close(found["J"], exact.objective)
    close(found["V"], exact.values)
    close(found["gradient"], exact.gradient)
    close(js(tab, "playground.gridworld.optimum().V"), task.optimum().values)


@pytest.mark.parametrize(
    ("method", "config"),
    [("reinforce", LearnerConfig(baseline="none")), ("baseline", LearnerConfig(lam=1.0)),
     ("actor-critic", LearnerConfig(lam=0.0))],
)  # fmt: skip
def test_the_gridworlds_learners_weigh_as_the_named_algorithms_do(tab, method, config):
    torch.manual_seed(1)
    logits, V = torch.randn(9, 4, dtype=Double), torch.randn(9, dtype=Double)
    call = """(w => { const steps = w.episode(playground.random(2), given[0]);
      const weights = w.weights(given[2], steps, given[1]);
      return {steps, weights, gradient: w.gradient(given[0], steps, weights)};
    })(playground.gridworld)"""
    found = js(tab, call, logits.tolist(), V.tolist(), method)
    states, actions, next_ = (
        torch.tensor([step[name] for step in found["steps"]]) for name in ("s", "a", "next")
    )
    rewards = torch.tensor([[step["r"] for step in found["steps"]]], dtype=Double)
    ends = torch.zeros_like(rewards)
    ends[0, -1] = 1
    logits.requires_grad_()
    chosen = logits.log_softmax(1)[states, actions][None]
    rollout = Rollout(
        inputs=states[None], actions=actions[None], logprobs=chosen.detach(),
        values=V[states][None],
        next_values=torch.where(next_ < 0, 0.0, V[next_.clamp(min=0)])[None], rewards=rewards,
        ends=ends, mask=torch.ones_like(rewards),
    )  # fmt: skip
    weights, _ = estimate_advantages(rollout, config)
    close(found["weights"], weights[0])
    loss = policy_gradient_loss(chosen, weights, rollout.mask, "episode")
    close(found["gradient"], -torch.autograd.grad(loss, logits)[0])


@pytest.mark.parametrize("reward", ["hill", "step"])
def test_the_gaussian_estimates_have_the_moments_of_torchs_derivatives(tab, reward):
    def f(a):
        return 2 - (a - 1) ** 2 / 2 if reward == "hill" else 2 * torch.sigmoid(6 * (a - 1))

    eps = torch.linspace(-8, 8, 4001, dtype=Double)  # a rule for integrals of its own
    weights = torch.exp(-(eps**2) / 2) * (eps[1] - eps[0]) / math.sqrt(2 * math.pi)
    # One mean and deviation for each noise, so that each has a gradient of its own.
    mu, sigma = (torch.full_like(eps, x).requires_grad_() for x in (-0.3, 0.8))
    action = mu + sigma * eps
    log = torch.distributions.Normal(mu, sigma).log_prob(action.detach())
    targets = {"score": f(action).detach() * log, "reparameterised": f(action)}
    call = "playground.gaussianPolicy.exact(-0.3, 0.8, playground.REWARDS[given[0]])"
    found = js(tab, call, reward)
    close(found["J"], float((weights * f(action.detach())).sum()))
    for name, target in targets.items():
        rows = torch.stack(torch.autograd.grad(target.sum(), [mu, sigma], retain_graph=True), 1)
        mean = weights @ rows
        close(found[name]["mean"], mean)
        close(found[name]["variance"], float(weights @ (rows**2).sum(1) - (mean**2).sum()))
        call = "playground.gaussianPolicy[given[0]](...given[1], playground.REWARDS[given[2]])"
        close(js(tab, call, name, [-0.3, 0.8, float(eps[2300])], reward), rows[2300])


# -- the page --------------------------------------------------------------------------------------


def section(tab, name):
    return tab.inner_html(f"#{name} .facts") + tab.inner_html(f"#{name} .plots, #{name} .worlds")


@pytest.mark.parametrize("name", SECTIONS)
def test_step_moves_play_runs_reset_goes_back(tab, name):
    tab.click(f"#{name}-reset")
    start = section(tab, name)
    tab.focus(f"#{name}-step")
    tab.keyboard.press("Enter")
    first = section(tab, name)
    assert first != start
    tab.keyboard.press("Enter")
    assert section(tab, name) != first
    tab.focus(f"#{name}-play")
    tab.keyboard.press("Space")
    assert tab.inner_text(f"#{name}-play") == "Pause"
    before = section(tab, name)
    for _ in range(50):
        tab.wait_for_timeout(50)
        if section(tab, name) != before:
            break
    assert section(tab, name) != before
    tab.click(f"#{name}-reset")
    assert tab.inner_text(f"#{name}-play") == "Play" and section(tab, name) == start
    tab.click(f"#{name}-step")
    assert section(tab, name) == first  # the same random numbers


@pytest.mark.parametrize("name", SECTIONS)
def test_every_slider_has_a_name_and_an_effect(tab, name):
    tab.click(f"#{name}-reset")
    tab.click(f"#{name}-step")
    for slider in tab.locator(f"#{name} input[type=range]").all():
        assert slider.evaluate("node => node.labels[0].textContent.trim()")
        tab.click(f"#{name}-step")
        before = slider.input_value()
        slider.focus()
        tab.keyboard.press("Home")
        assert slider.input_value() != before
        slider.evaluate("""(node, v) => { node.value = v;
          node.dispatchEvent(new Event('input', {bubbles: true})); }""", before)  # fmt: skip


def test_the_free_step_lowers_the_return_and_the_limited_one_raises_it(tab):
    """The first task of the page, as its text promises."""
    tab.click("#two-reset")
    rows = tab.locator("#two-table tbody tr")
    read = lambda i: float(rows.nth(i).inner_text().split("\t")[-1].replace("−", "-"))  # noqa: E731
    start = read(0)
    for _ in range(20):
        tab.click("#two-step")
    assert read(0) < start - 0.03 and read(1) > start + 0.05
    weights = tab.locator("#two-steps tbody tr").all_inner_texts()
    assert len(weights) == 4


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_it_fits_narrow_and_dark_screens(browser, page_file, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
    assert dark == (scheme == "dark")
    page.click("#theme")
    assert page.locator(".map canvas").count() == 1
    context.close()
