"""The museum's claims, each checked by another way than the room's own."""

import ast
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core import kl, losses, masked, returns
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.study.bugs import (
    cartpole,
    inverted_whitening,
    kl_sign,
    lambda_ignored,
    limited,
    mask_dropped,
    no_position_ids,
    no_temperature,
    pad_is_eos,
    reset_step,
    score_on_pad,
    small_table,
    table_policy,
    truncation_as_end,
    unmasked_whitening,
)
from rlhf_pg.study.bugs.exhibit import (
    direction,
    right_lines,
    swapped,
    wrong_lines,
)
from rlhf_pg.study.bugs.limited import Limited
from rlhf_pg.study.bugs.museum import EXHIBITS
from rlhf_pg.study.bugs.small_table import PLAIN, WHITENED, SmallTable
from rlhf_pg.study.mdp import two_state
from rlhf_pg.study.tasks import small_task

EXACT = 1e-9
BARE = replace(PLAIN, baseline="none")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task():
    return SmallTable()


# The house


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_room_shows_lines_that_stand_in_the_library_and_others_beside_them(name):
    exhibit = EXHIBITS[name]
    right, wrong = right_lines(exhibit), wrong_lines(exhibit)
    assert exhibit.right[0].__module__.split(".")[1] in ("core", "language", "control")
    assert 1 <= len(right) <= 6 and 1 <= len(wrong) <= 6
    assert right != wrong
    assert not any('"""' in line or line.startswith("def ") for line in wrong)


def test_a_room_that_is_out_of_date_says_so():
    old = replace(EXHIBITS["kl-sign"], right=(kl.k1, "no such line"))
    with pytest.raises(ValueError, match="kl-sign: no line of k1 has"):
        right_lines(old)


def test_the_bugs_live_in_the_museum_alone():
    root = Path(small_table.__file__).parents[2]
    for path in root.rglob("*.py"):
        if "bugs" in path.relative_to(root).as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert ".bugs" not in (node.module or ""), path
            if isinstance(node, ast.Import):
                assert not any(".bugs" in alias.name for alias in node.names), path


def test_what_was_swapped_is_put_back_even_after_an_error():
    before = kl.k1
    with pytest.raises(ZeroDivisionError), swapped((kl, "k1", kl_sign.wrong)):
        assert kl.k1 is kl_sign.wrong
        raise ZeroDivisionError
    assert kl.k1 is before


def test_a_direction_by_hand():
    found = direction(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert (found.bias, found.cosine, found.length) == (pytest.approx(math.sqrt(5)), 0, 2)
    assert direction(torch.zeros(2), torch.ones(2)).cosine == 0


# The small table


def test_the_tables_objective_and_gradient_are_the_oracles(task):
    policy = task.policy()
    answer = task.exact(policy)
    assert task.objective(policy) == pytest.approx(answer.objective, abs=EXACT)
    assert float(task.logprobs(policy.logits).exp().sum().detach()) == pytest.approx(1, abs=EXACT)
    logp = task.logprobs(policy.logits)
    drift = logp - task.logprobs(task.ref_logits)
    gradient = torch.autograd.grad(logp.exp() @ (task.scores - task.kl_coef * drift), policy.logits)
    assert_close(gradient[0].flatten(), answer.gradient, atol=EXACT, rtol=0)
    moved = task.policy(task.logits + 1e-6 * answer.gradient.reshape(task.logits.shape))
    gain = (task.objective(moved) - answer.objective) / 1e-6
    assert gain == pytest.approx(float(answer.gradient @ answer.gradient), rel=1e-4)


def test_the_table_says_what_the_language_model_says(task):
    """The same probabilities of all completions, and so the same J."""
    from rlhf_pg.study.oracle import language_oracle

    lm = small_task(max_new_tokens=3)
    truth = language_oracle(
        lm.policy, lm.reference, lm.tokenizer, lm.prompt, lm.reward, 3, 0.5, parameters=[]
    )
    assert task.objective(task.policy()) == pytest.approx(truth.objective, abs=1e-5)
    assert_close(task.logprobs(task.logits).exp(), truth.probs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [2, 16])
def test_a_batch_mean_shrinks_the_measured_gradient_by_one_row(task, size):
    """Which theory says exactly, whatever the other rows are."""
    found = task.compare("", task.policy(), PLAIN, size=size).right
    assert found.cosine == pytest.approx(1, abs=EXACT)
    assert found.length == pytest.approx(1 - 1 / size, abs=EXACT)


def test_the_noise_is_that_of_single_episodes_counted_one_by_one(task):
    policy = task.policy()
    rollout, probs = task.rollout(policy), task.logprobs(policy.logits).detach().exp()
    advantages, _ = estimate_advantages(rollout, BARE)
    logprobs = policy.evaluate(rollout).logprobs
    mean, square = 0, 0
    for row, p in enumerate(probs):
        weighed = (logprobs[row] * advantages[row])[rollout.mask[row]].sum()
        (g,) = torch.autograd.grad(weighed, policy.logits, retain_graph=True)
        mean, square = mean + p * g, square + p * (g**2).sum()
    noise = float((square - (mean**2).sum()).sqrt() / mean.norm())
    assert task.compare("", policy, BARE).right.noise == pytest.approx(noise, abs=1e-6)


# The rooms, text


def test_the_turned_sign_is_the_gradient_of_the_turned_coefficient(task):
    policy, swap = task.policy(), (kl, "k1", kl_sign.wrong)
    turned = SmallTable(kl_coef=-0.5).exact(policy).gradient
    truth = task.exact(policy).gradient
    found = task.compare("", policy, PLAIN, swap)
    assert found.right.bias < EXACT
    assert found.wrong.bias == pytest.approx(direction(turned, truth).bias, abs=EXACT)
    first = task.compare("", task.policy(task.ref_logits), PLAIN, swap)
    assert first.wrong.bias < EXACT


def test_with_the_turned_sign_the_score_rises_and_the_objective_falls(task):
    policy = task.policy(task.ref_logits)

    def score():
        return float(task.logprobs(policy.logits).detach().exp() @ task.scores)

    before = score()
    with swapped((kl, "k1", kl_sign.wrong)):
        curve = task.train(policy, PLAIN, 60, 64, seed=2)
    assert score() > before + 1
    assert curve[-1] < max(curve) - 0.2


def test_a_score_on_the_pad_leaves_the_kl_alone():
    wide = SmallTable(missing_eos_penalty=1.0, columns=4)
    swap = (small_table, "language_rollout", score_on_pad.wrong)
    policy = wide.policy()
    found = wide.compare("", policy, PLAIN, swap)
    assert found.right.bias < EXACT
    truth = wide.exact(policy).gradient
    wide.scores = torch.zeros_like(wide.scores)
    nothing = wide.exact(policy).gradient
    assert found.wrong.bias == pytest.approx(direction(nothing, truth).bias, abs=EXACT)


def test_a_score_on_the_pad_spares_completions_without_padding(task):
    with swapped((small_table, "language_rollout", score_on_pad.wrong)):
        wrong = task.rollout(task.policy())
    right = task.rollout(task.policy())
    whole = task.done.mask.all(1)
    assert_close(wrong.rewards[whole], right.rewards[whole])
    lost = (right.rewards - wrong.rewards)[~whole]
    real = task.done.mask[~whole]
    assert_close(torch.where(real, lost, 0).sum(1), task.scores[~whole])


def test_pad_as_eos_hides_every_eos_and_a_pad_never_written_hides_nothing():
    task = SmallTable(missing_eos_penalty=1.0)
    policy = task.policy()
    with swapped(pad_is_eos.rollout_with(task.eos)):
        wrong = task.rollout(policy)
    assert not (wrong.mask & (wrong.actions == task.eos)).any()
    right = task.rollout(policy)
    assert torch.equal(right.mask & (right.actions != task.eos), wrong.mask)
    for pad, harmless in ((-1, True), (task.eos, False)):
        found = task.compare("", policy, PLAIN, pad_is_eos.rollout_with(pad))
        assert found.right.bias < EXACT
        assert (found.wrong.bias < EXACT) == harmless


def test_with_pad_as_eos_the_share_that_ends_drifts_away_from_the_best():
    task = SmallTable(missing_eos_penalty=1.0)
    best = float(task.exact(task.policy()).best[task.done.finished].sum())
    assert abs(pad_is_eos.ending(task) - best) < 0.1
    with swapped(pad_is_eos.rollout_with(task.eos)):
        assert abs(pad_is_eos.ending(task) - best) > 0.2


def test_without_the_temperature_a_constant_score_has_a_gradient():
    """E[grad log pi_1] over what pi_T draws is not 0."""
    swap = (table_policy, "token_logprobs", no_temperature.wrong)
    one = SmallTable(temperature=1.0)
    assert one.compare("", one.policy(), BARE, swap).wrong.bias < EXACT
    biases = {}
    for shift in (0.0, 5.0):
        task = SmallTable(temperature=0.7, shift=shift)
        found = task.compare("", task.policy(), BARE, swap)
        assert found.right.bias < EXACT
        biases[shift] = found.wrong.bias
    assert 0.5 < biases[0.0] < biases[5.0]
    task = SmallTable(temperature=0.7)
    logits = task.logits.clone().requires_grad_()
    drawn = task.logprobs(task.logits).exp()
    scored = SmallTable().logprobs(logits)
    (off,) = torch.autograd.grad(drawn @ scored, logits)
    assert float(off.norm()) > 0.1


def test_left_padding_without_positions_is_seen_by_gpt2_and_hidden_by_rope():
    task = small_task()
    gpt2 = no_position_ids.Batch(no_position_ids.gpt2(task), task)
    found = gpt2.compare("")
    assert found.right.bias < 1e-5 and found.wrong.cosine < 0.9
    with torch.no_grad():
        said = LanguagePolicy(gpt2.model)(gpt2.ids, gpt2.seen, keep=3)[0]
        logits = no_position_ids.right(gpt2.model, gpt2.ids, gpt2.seen)[:, -3:]
        assert_close(logits.log_softmax(-1), said, atol=1e-5, rtol=0)
    llama = no_position_ids.Batch(no_position_ids.llama(task), task)
    found = llama.compare("")
    assert found.right.bias < 1e-5 and found.wrong.bias < 1e-5
    assert gpt2.train(no_position_ids.wrong, 8)[-1] < gpt2_right(task)


def gpt2_right(task):
    batch = no_position_ids.Batch(no_position_ids.gpt2(task), task)
    return batch.train(no_position_ids.right, 8)[-1]


# The rooms, whitening


def test_both_wrong_whitenings_keep_the_direction_in_a_batch_of_some_size():
    wide, large = SmallTable(columns=24), SmallTable(scale=10.0)
    found = wide.compare("", wide.policy(), WHITENED, unmasked_whitening.SWAP, size=64)
    assert found.right.cosine > 0.999 and found.wrong.cosine > 0.999
    assert found.wrong.noise > 1.1 * found.right.noise
    found = large.compare("", large.policy(), WHITENED, inverted_whitening.SWAP, size=64)
    assert found.wrong.cosine > 0.999
    assert found.wrong.length > 50 * found.right.length


def test_in_pairs_the_inverted_whitening_is_the_nearer_to_the_gradient(task):
    found = task.compare("", task.policy(), WHITENED, inverted_whitening.SWAP, size=2)
    assert found.right.cosine < 0.8 < 0.95 < found.wrong.cosine


def test_without_adam_its_steps_grow_with_the_square_of_the_scores():
    def lengths(scale):
        x = scale * torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
        mask = torch.ones(8, 5)
        return inverted_whitening.wrong(x, mask).norm(), masked.whiten(x, mask).norm()

    one, ten = lengths(1.0), lengths(10.0)
    assert_close(ten[0], 100 * one[0])
    assert_close(ten[1], one[1])


def test_the_inverted_whitening_multiplies_by_the_deviation():
    x = torch.tensor([[1.0, 3.0, 1e6]])
    mask = torch.tensor([[True, True, False]])
    assert_close(inverted_whitening.wrong(3 * x, mask), torch.tensor([[-9.0, 9.0, 0.0]]))
    assert_close(masked.whiten(3 * x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))


def test_the_unmasked_whitening_is_the_right_one_where_there_is_no_padding():
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    everything, some = torch.ones(4, 5), torch.ones(4, 5)
    some[:, 3:] = 0
    for shift_mean in (True, False):
        right = masked.whiten(x, everything, shift_mean)
        assert_close(unmasked_whitening.wrong(x, everything, shift_mean), right)
    assert not torch.allclose(
        unmasked_whitening.wrong(x, some)[:, :3], masked.whiten(x, some)[:, :3]
    )


# The rooms, credit


def test_ignoring_lambda_is_unbiased_and_noisier(task):
    policy = task.policy()
    config = algorithm("a2c", lam=0.5)
    true = task.true_values(policy)
    policy.values.data.copy_(true)
    found = task.compare("", policy, config, lambda_ignored.SWAP)
    assert found.right.bias < EXACT and found.wrong.bias < EXACT
    assert found.right.noise < found.wrong.noise
    policy.values.data.copy_(-true)
    found = task.compare("", policy, config, lambda_ignored.SWAP)
    assert found.wrong.bias < EXACT and found.right.bias > 0.3


def test_ignoring_lambda_is_lambda_one():
    generator = torch.Generator().manual_seed(0)
    r, v, w = (torch.randn(3, 6, generator=generator) for _ in range(3))
    ends = (torch.rand(3, 6, generator=generator) < 0.3).float()
    wrong = lambda_ignored.wrong(r, v, w, ends, 0.9, 0.2)
    assert_close(wrong, returns.gae(r, v, w, ends, 0.9, 1.0))


def test_a_dropped_mask_only_shortens_where_advantages_are_zero_on_padding():
    with swapped(mask_dropped.SWAP):
        harmless = mask_dropped.Whole(emptied=True).direction()
        harmful = mask_dropped.Whole(emptied=False).direction()
    assert harmless.cosine == pytest.approx(1, abs=1e-5)
    assert harmless.length == pytest.approx(1 / mask_dropped.COLUMNS, rel=1e-4)
    assert harmful.cosine < 0.5 and harmful.length > 3 * harmless.length
    assert mask_dropped.Whole(emptied=False).direction().bias < 1e-5  # the right loss


def test_the_dropped_mask_of_ppo_is_that_of_the_plain_loss_at_ratio_one():
    logp = torch.randn(3, 4, requires_grad=True)
    advantages, mask = torch.randn(3, 4), torch.ones(3, 4)
    pair = [mask_dropped.wrong(logp, advantages, mask),
            mask_dropped.clipped(logp, logp.detach(), advantages, mask)]  # fmt: skip
    gradients = [torch.autograd.grad(loss, logp)[0] for loss in pair]
    assert_close(*gradients)
    right = losses.policy_gradient_loss(logp, advantages, mask, "constant")
    assert_close(torch.autograd.grad(right, logp)[0], gradients[0])


# The rooms, time limits

UNIFORM = torch.zeros(2, 2).double()
A2C = algorithm("a2c", gamma=0.9, lr=0.1)


@pytest.fixture(scope="module")
def walks():
    return Limited(two_state(), limit=3)


def test_every_walk_is_there_once_and_goes_where_the_table_allows(walks):
    logits = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double()
    assert float(walks.probs(logits).sum()) == pytest.approx(1, abs=EXACT)
    rows = torch.cat([walks.walks.states, walks.walks.actions], 1).tolist()
    assert len({tuple(row) for row in rows}) == len(rows)
    assert (walks.walks.states[:, 0] == 0).all() and (walks.walks.next_states[:, -1] == 0).all()


def test_the_limited_truth_is_the_sum_over_walks(walks):
    logits = torch.randn(2, 2, generator=torch.Generator().manual_seed(1)).double()
    advantages = walks.mdp.exact(logits).advantages
    moving = logits.clone().requires_grad_()
    logp = moving.log_softmax(-1)
    total = 0
    for states, actions, p in zip(
        walks.walks.states.tolist(), walks.walks.actions.tolist(), walks.probs(logits), strict=True
    ):
        for s, a in list(zip(states, actions, strict=True))[:3]:
            total = total + p * logp[s, a] * advantages[s, a]
    assert_close(walks.truth(logits), torch.autograd.grad(total, moving)[0], atol=EXACT, rtol=0)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_bootstrapped_segments_are_exact_and_their_critic_settles_at_the_true_values(walks, lam):
    config = replace(A2C, lam=lam)
    true = walks.mdp.exact(UNIFORM).values
    assert direction(walks.gradient(UNIFORM, config, true), walks.truth(UNIFORM)).bias < EXACT
    assert_close(walks.critic(UNIFORM, config, 0 * true, 300), true, atol=1e-8, rtol=0)


def test_truncation_as_an_end_makes_the_orchard_worth_three_steps():
    task = Limited(truncation_as_end.orchard(), limit=3)
    best = task.mdp.optimum()
    assert best.objective == pytest.approx(12.6) and int(best.probs[0].argmax()) == 1
    swap = (limited, "segment", truncation_as_end.cut)
    true = task.mdp.exact(UNIFORM).values
    assert float(true[1]) == pytest.approx(14)
    with swapped(swap):
        believed = task.critic(UNIFORM, replace(A2C, lam=1.0), true, 50)
    orchard = [1.4 * (1 + 0.9), 1.4]  # with one or two steps left
    assert 1.4 < float(believed[1]) < max(orchard)
    curves = task.curves("", A2C, swap, updates=60)
    assert curves.right[0][-1] > 12.5 and curves.wrong[0][-1] < 10.5


def test_the_reset_step_spoils_the_critic_and_not_the_gradient_of_a_given_one(walks):
    swap = (limited, "segment", reset_step.unmasked)
    true = walks.mdp.exact(UNIFORM).values
    for config in (A2C, replace(A2C, lam=0.0)):
        found = walks.compare("", UNIFORM, config, swap, fitted=False)
        assert found.right.bias < EXACT and found.wrong.bias < EXACT
        found = walks.compare("", UNIFORM, config, swap, fitted=True)
        assert found.right.bias < 1e-8 and found.wrong.bias > 0.01
    with swapped(swap):
        assert float((walks.critic(UNIFORM, A2C, true, 300) - true).abs().max()) > 0.3


# CartPole


def test_the_learning_test_trains_with_the_swapped_function_and_keeps_the_rights_runs(monkeypatch):
    monkeypatch.setattr(cartpole, "STEPS", 3_000)
    cartpole.runs.cache_clear()
    called = []

    def counted(*arguments):
        called.append(1)
        return lambda_ignored.wrong(*arguments)

    swap = (returns, "gae", counted)
    first = cartpole.learning_test("ppo", swap, seeds=1)
    assert called and first.runs == 1 and first.right_steps[0] >= 3_000
    assert not first.notices and first.right_solved == 0
    before = cartpole.runs.cache_info().misses
    cartpole.learning_test("ppo", swap, seeds=1)
    assert cartpole.runs.cache_info().misses == before
    cartpole.runs.cache_clear()


@pytest.mark.parametrize("room", [truncation_as_end, reset_step])
def test_the_collector_is_told_what_the_room_says(room):
    """Through the real collector, on a CartPole that is cut before it can fall."""
    from rlhf_pg.control.collect import Collector
    from rlhf_pg.control.config import preset, tuned
    from rlhf_pg.control.train import Trainer

    options = {"max_episode_steps": 5}
    training = Trainer(tuned(preset("a2c", "CartPole-v1"), env_options=options))
    with swapped((Collector, "_outcome", room.outcome)):
        rollout = training.collector.segment(12)
    training.close()
    assert bool(rollout.mask.all()) == (room is reset_step)
    ends = rollout.ends.bool()
    assert ends.any()
    assert bool(rollout.next_values[ends].any()) == (room is reset_step)
