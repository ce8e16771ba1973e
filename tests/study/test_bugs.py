"""What is claimed of each bug, checked by another way than the bug's own measurement."""

import ast
import inspect
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core import losses, masked, returns
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import language_rollout
from rlhf_pg.study.bugs import BUGS, cartpole
from rlhf_pg.study.bugs.bug import body
from rlhf_pg.study.bugs.critic_descent import CriticDescent
from rlhf_pg.study.bugs.functions import RIGHT, Functions
from rlhf_pg.study.bugs.gaussian import Gaussian
from rlhf_pg.study.bugs.learner import (
    ReplacedLearner,
    TablePolicy,
    direction,
    estimate,
    expected_gradient,
)
from rlhf_pg.study.bugs.small_network import SmallNetwork, gpt2
from rlhf_pg.study.bugs.small_text import PLAIN, SmallText, enumerated
from rlhf_pg.study.bugs.time_limit import A2C, TimeLimit, orchard
from rlhf_pg.study.mdp import two_state
from rlhf_pg.study.tasks import small_task

EXACT = 1e-9
BARE = replace(PLAIN, baseline="none")
WHITENED = replace(BARE, whiten_advantages=True)
WRONG = {name: bug.functions for name, bug in BUGS.items()}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The registry, and the functions that bugs replace


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_bug_replaces_functions_of_the_same_arguments_and_shows_both(bug):
    names = {field.name for field in fields(Functions)}
    changed = {n for n in names if getattr(bug.functions, n) is not getattr(RIGHT, n)}
    assert changed == set(bug.replaced) <= names
    for name, wrong in bug.replaced.items():
        inspect.signature(getattr(RIGHT, name)).bind(*inspect.signature(wrong).parameters)
    right, wrong = (body(function) for function in bug.pair)
    assert 1 <= len(right) <= 6 and 1 <= len(wrong) <= 6 and right != wrong
    assert not any('"""' in line or line.startswith("def ") for line in right + wrong)


def test_a_function_shows_its_lines_without_signature_and_docstring():
    assert body(losses.policy_gradient_loss) == [
        "advantages = zero_padding(advantages.detach(), mask)",
        "return aggregate(-zero_padding(logprobs, mask) * advantages, mask, reduction)",
    ]


def test_no_other_package_imports_a_bug():
    root = Path(cartpole.__file__).parents[2]
    for path in root.rglob("*.py"):
        if "bugs" in path.relative_to(root).as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert ".bugs" not in (node.module or ""), path
            if isinstance(node, ast.Import):
                assert not any(".bugs" in alias.name for alias in node.names), path


@pytest.fixture(scope="module")
def completions():
    """Every completion of the small task, as its policy samples them, with scores."""
    task = small_task(max_new_tokens=3)
    done = every_completion(task.policy, task.tokenizer, "very good film", 3)
    return task, replace(done, logprobs=normal(*done.mask.shape)), normal(len(done.texts), seed=1)


def test_the_right_functions_of_text_are_the_librarys(completions):
    task, done, scores = completions
    ref = normal(*done.mask.shape, seed=2)
    library = language_rollout(done, scores, ref, 0.5)
    kl = masked.zero_padding(RIGHT.k1(done.logprobs, ref), done.mask)
    assert torch.equal(library.rewards, RIGHT.place_score(scores, done.mask) - 0.5 * kl)
    assert torch.equal(RIGHT.mask(done.ids, done.mask.sum(1), 0), done.mask)

    ids = torch.tensor([[7, 7, 3, 4, 5], [2, 3, 4, 5, 3]])
    seen = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    model = gpt2(task).eval()
    with torch.no_grad():
        expected = LanguagePolicy(model, temperature=0.7)(ids, seen, keep=3)[0]
        logits = model(ids, attention_mask=seen, position_ids=RIGHT.position_ids(seen)).logits
    assert_close(RIGHT.token_logprobs(logits[:, -3:], 0.7), expected, atol=1e-5, rtol=0)


LEARNERS = {
    "critic": algorithm("a2c", gamma=0.9, lam=0.7, lr=0.1, max_grad_norm=0.1),
    "whitened": replace(WHITENED, minibatches=3),
    "ppo": algorithm("ppo", gamma=0.9, lr=0.1, minibatches=3, max_grad_norm=0.5),
}


@pytest.mark.parametrize("config", LEARNERS.values(), ids=LEARNERS)
def test_with_the_right_functions_the_learner_is_the_librarys(config):
    rows, steps = 11, 6
    mask = torch.rand(rows, steps, generator=torch.Generator().manual_seed(0)).cumsum(1) < 2.5
    ends = torch.nn.functional.one_hot(mask.sum(1) - 1, steps).float()
    floats = [normal(rows, steps, seed=seed) for seed in range(4)]
    places = [(normal(rows, steps, seed=seed) * 9).long() % n for seed, n in ((5, 5), (6, 4))]
    rollout = Rollout(places[0], places[1], *floats, ends, mask)
    assert not mask.all() and mask[:, 0].all()
    for mine, expected in zip(
        estimate(rollout, config, RIGHT), estimate_advantages(rollout, config), strict=True
    ):
        assert torch.equal(mine, expected)
    policies = [TablePolicy(normal(5, 4)) for _ in range(2)]
    learners = ReplacedLearner(policies[0], config), Learner(policies[1], config)
    for learner in learners:
        for _ in range(3):
            learner.update(rollout)
    assert torch.equal(policies[0].logits, policies[1].logits)
    assert torch.equal(policies[0].values, policies[1].values)
    assert not torch.equal(policies[0].logits, normal(5, 4))


@pytest.mark.parametrize(
    "config", [LEARNERS["ppo"], replace(LEARNERS["whitened"], clip=None)], ids=["ppo", "plain"]
)
def test_the_learner_calls_what_replaces_a_function(config):
    called = set()

    def spy(name):
        def function(*arguments, **named):
            called.add(name)
            return getattr(RIGHT, name)(*arguments, **named)

        return function

    names = {"gae", "whiten", "policy_loss", "clip_loss", "value_loss", "token_logprobs"}
    f = replace(RIGHT, **{name: spy(name) for name in names})
    rollout = SmallText().rollout(SmallText().policy(), RIGHT)
    ReplacedLearner(TablePolicy(enumerated().logits, f=f), config, f).update(rollout)
    critic = {"gae", "value_loss"} if config.baseline == "critic" else set()
    loss = {"clip_loss"} if config.clip else {"policy_loss"}
    assert called == {"whiten", "token_logprobs"} | critic | loss


def test_a_direction_by_hand():
    found = direction(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert found == {"bias": pytest.approx(math.sqrt(5)), "cosine": 0, "length": 2}
    assert direction(torch.zeros(2), torch.ones(2))["cosine"] == 0


# The small text


def test_the_tables_objective_and_gradient_are_the_oracles():
    task = SmallText()
    policy, ref = task.policy(), enumerated().ref_logits
    answer = task.exact(policy)
    assert task.objective(policy.logits) == pytest.approx(answer.objective, abs=EXACT)
    logp = task.logprobs(policy.logits)
    assert float(logp.exp().sum().detach()) == pytest.approx(1, abs=EXACT)
    objective = logp.exp() @ (task.scores() - task.kl_coef * (logp - task.logprobs(ref)))
    (gradient,) = torch.autograd.grad(objective, policy.logits)
    assert_close(gradient.flatten(), answer.gradient, atol=EXACT, rtol=0)
    moved = policy.logits.detach() + 1e-6 * answer.gradient.reshape(policy.logits.shape)
    gain = (task.objective(moved) - answer.objective) / 1e-6
    assert gain == pytest.approx(float(answer.gradient @ answer.gradient), rel=1e-4)


def test_the_table_says_what_the_language_model_says():
    """The same probabilities of all completions, and so the same J."""
    from rlhf_pg.study.oracle import language_oracle

    lm, task = small_task(max_new_tokens=3), SmallText()
    truth = language_oracle(
        lm.policy, lm.reference, lm.tokenizer, lm.prompt, lm.reward, 3, 0.5, parameters=[]
    )
    logits = enumerated().logits
    assert task.objective(logits) == pytest.approx(truth.objective, abs=1e-5)
    assert_close(task.logprobs(logits).exp(), truth.probs, atol=1e-6, rtol=0)
    assert task.best() == pytest.approx(truth.best_objective, abs=1e-5)


@pytest.mark.parametrize("batch", [2, 16])
def test_a_batch_mean_shrinks_the_measured_gradient_by_one_row(batch):
    """Which theory says exactly, whatever the other rows are."""
    found = SmallText(batch=batch).direction(RIGHT)
    assert found["cosine"] == pytest.approx(1, abs=EXACT)
    assert found["length"] == pytest.approx(1 - 1 / batch, abs=EXACT)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_noise_is_that_of_single_episodes_counted_one_by_one(batch):
    """Without KL, a completion's advantage is its score, less the mean of a batch."""
    task = SmallText(BARE if batch == 1 else PLAIN, batch=batch, kl_coef=0.0)
    logits = task.policy().logits
    logprobs, scores = task.logprobs(logits), task.scores()
    probs = logprobs.detach().exp()
    mean, square = 0, 0
    for i, p in enumerate(probs):
        (g,) = torch.autograd.grad(logprobs[i], logits, retain_graph=True)
        advantages = scores[i] - 0 * scores if batch == 1 else (scores[i] - scores) / 2
        mean = mean + p * (probs @ advantages) * g
        square = square + p * (probs @ advantages**2) * (g**2).sum()
    noise = float((square - (mean**2).sum()).sqrt() / mean.norm())
    assert task.direction(RIGHT)["noise"] == pytest.approx(noise, abs=1e-6)


EXACT_SETTINGS = {
    "plain": SmallText(),
    "first update": SmallText(at_reference=True),
    "a missing EOS costs 1": SmallText(missing_eos_penalty=1.0, columns=4),
    "temperature": SmallText(BARE, temperature=0.7, shift=5.0),
    "a pad of its own": SmallText(pad="own"),
    "a true critic": SmallText(algorithm("a2c", lam=0.5), critic="true"),
}


@pytest.mark.parametrize("task", EXACT_SETTINGS.values(), ids=EXACT_SETTINGS)
def test_the_right_code_has_no_bias(task):
    assert task.direction(RIGHT)["bias"] < EXACT


HARMLESS = {
    "kl-sign": SmallText(at_reference=True),
    "pad-is-eos": SmallText(missing_eos_penalty=1.0, pad="unused"),
    "no-temperature": SmallText(BARE),
}
HARMFUL = {
    "kl-sign": SmallText(),
    "pad-is-eos": SmallText(missing_eos_penalty=1.0),
    "no-temperature": SmallText(BARE, temperature=0.7),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_where_a_bug_is_harmless_and_where_it_is_not(name):
    assert HARMLESS[name].direction(WRONG[name])["bias"] < EXACT
    assert HARMFUL[name].direction(WRONG[name])["bias"] > 0.1


# Bugs of text


def test_the_turned_sign_is_the_gradient_of_the_turned_coefficient():
    task = SmallText()
    turned, truth = (replace(task, kl_coef=c).exact(task.policy()).gradient for c in (-0.5, 0.5))
    found = task.direction(WRONG["kl-sign"])["bias"]
    assert found == pytest.approx(direction(turned, truth)["bias"], abs=EXACT)


def test_with_the_turned_sign_the_score_rises_and_the_objective_falls():
    task = SmallText()
    curve, logits = task.train(WRONG["kl-sign"], seed=2)
    before, after = (
        float(task.logprobs(x).exp() @ task.scores()) for x in (enumerated().ref_logits, logits)
    )
    assert after > before + 1 and curve[-1] < max(curve) - 0.2


def test_a_score_on_the_pad_leaves_the_kl_alone():
    wide = SmallText(missing_eos_penalty=1.0, columns=4)
    nothing = replace(wide, missing_eos_penalty=0.0, scale=0.0).exact(wide.policy()).gradient
    expected = direction(nothing, wide.exact(wide.policy()).gradient)["bias"]
    assert wide.direction(WRONG["score-on-pad"])["bias"] == pytest.approx(expected, abs=EXACT)


def test_a_score_on_the_pad_spares_completions_without_padding():
    scores, mask = torch.tensor([2.0, 3.0, 5.0]), torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2:] = mask[2, 1:] = False
    right = [[0, 0, 0, 2], [0, 3, 0, 0], [5, 0, 0, 0]]
    wrong = [[0, 0, 0, 2], [0, 0, 3, 0], [0, 5, 0, 0]]
    for f, expected in ((RIGHT, right), (WRONG["score-on-pad"], wrong)):
        assert f.place_score(scores, mask).tolist() == expected


def test_pad_as_eos_hides_every_eos():
    task, eos = SmallText(missing_eos_penalty=1.0), enumerated().pads["eos"]
    right, wrong = (task.rollout(task.policy(), f) for f in (RIGHT, WRONG["pad-is-eos"]))
    assert (right.mask & (right.actions == eos)).any()
    assert torch.equal(right.mask & (right.actions != eos), wrong.mask)


def test_a_pad_that_is_written_hides_what_it_stands_for():
    task = SmallText(missing_eos_penalty=1.0, pad="own")
    assert task.direction(WRONG["pad-is-eos"])["bias"] > 0.01


def test_with_pad_as_eos_the_share_that_ends_drifts_away_from_the_best():
    task = SmallText(missing_eos_penalty=1.0)
    best = float(task.exact(task.policy()).best[enumerated().finished].sum())
    (label,) = BUGS["pad-is-eos"].numbers
    assert f"{best:.3f}" in label
    assert abs(task.ending(RIGHT) - best) < 0.1 < 0.2 < abs(task.ending(WRONG["pad-is-eos"]) - best)


def test_without_the_temperature_a_constant_score_has_a_gradient():
    """E[grad log pi_1] over samples from pi_T is not 0."""
    shifted = replace(HARMFUL["no-temperature"], shift=5.0)
    plain = HARMFUL["no-temperature"].direction(WRONG["no-temperature"])["bias"]
    assert 0.5 < plain < shifted.direction(WRONG["no-temperature"])["bias"]
    logits = enumerated().logits.clone().requires_grad_()
    probs = shifted.logprobs(logits.detach()).exp()
    (off,) = torch.autograd.grad(probs @ SmallText().logprobs(logits), logits)
    assert float(off.norm()) > 0.1


def test_left_padding_without_positions_is_seen_by_gpt2_and_hidden_by_rope():
    models = dict(zip(("gpt2", "llama"), BUGS["no-position-ids"].gradients.values(), strict=True))
    wrong = WRONG["no-position-ids"]
    for name, harmed in (("gpt2", True), ("llama", False)):
        model = models[name]
        assert model.direction(RIGHT)["bias"] < 1e-5
        assert float(model.probs().sum()) == pytest.approx(1, abs=1e-5)
        assert (model.direction(wrong)["bias"] > 0.5) == harmed
        assert (model.error(wrong) > 1) == harmed
    assert models["gpt2"].learn(wrong, 8)[0][-1] < models["gpt2"].learn(RIGHT, 8)[0][-1]


def test_a_model_without_position_ids_counts_from_the_padding():
    model = gpt2(small_task()).eval()
    ids, seen = torch.tensor([[7, 7, 3, 4]]), torch.tensor([[0, 0, 1, 1]])
    positions = WRONG["no-position-ids"].position_ids(seen)
    with torch.no_grad():
        expected = model(ids, attention_mask=seen).logits[:, 2:]
        found = model(ids, attention_mask=seen, position_ids=positions).logits[:, 2:]
    assert_close(found, expected)


# Bugs of advantages and losses


def test_both_wrong_whitenings_keep_the_direction_in_a_batch_of_some_size():
    wide = SmallText(WHITENED, batch=64, columns=24)
    right, wrong = (wide.direction(f) for f in (RIGHT, WRONG["unmasked-whitening"]))
    assert right["cosine"] > 0.999 and wrong["cosine"] > 0.999
    assert wrong["noise"] > 1.1 * right["noise"]
    large = SmallText(WHITENED, batch=64, scale=10.0)
    right, wrong = (large.direction(f) for f in (RIGHT, WRONG["inverted-whitening"]))
    assert wrong["cosine"] > 0.999 and wrong["length"] > 50 * right["length"]


def test_in_pairs_the_inverted_whitening_is_nearer_to_the_gradient():
    pairs = SmallText(WHITENED, batch=2)
    right, wrong = (pairs.direction(f)["cosine"] for f in (RIGHT, WRONG["inverted-whitening"]))
    assert right < 0.8 < 0.95 < wrong


def test_the_inverted_whitening_multiplies_by_the_deviation():
    x, mask = torch.tensor([[1.0, 3.0, 1e6]]), torch.tensor([[True, True, False]])
    inverted = WRONG["inverted-whitening"].whiten
    assert_close(inverted(3 * x, mask), torch.tensor([[-9.0, 9.0, 0.0]]))
    assert_close(RIGHT.whiten(3 * x, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    # So without Adam, its steps grow with the square of the scores.
    assert_close(inverted(30 * x, mask), 100 * inverted(3 * x, mask))


def test_the_unmasked_whitening_is_the_right_one_where_there_is_no_padding():
    x, everything, some = normal(4, 5), torch.ones(4, 5), torch.ones(4, 5)
    some[:, 3:] = 0
    unmasked = WRONG["unmasked-whitening"].whiten
    for shift_mean in (True, False):
        assert_close(unmasked(x, everything, shift_mean), masked.whiten(x, everything, shift_mean))
    assert not torch.allclose(unmasked(x, some)[:, :3], masked.whiten(x, some)[:, :3])


def test_without_adam_the_inverted_whitenings_steps_grow_with_the_square_of_the_scores():
    def step(f, scale, sgd):
        task = SmallText(WHITENED, kl_coef=0.0, scale=scale, sgd=sgd)
        return (task.train(f, 0, updates=1)[1] - enumerated().ref_logits).norm()

    wrong = WRONG["inverted-whitening"]
    assert_close(step(wrong, 10.0, True), 100 * step(wrong, 1.0, True))
    for f, sgd in ((wrong, False), (RIGHT, True), (RIGHT, False)):
        assert_close(step(f, 10.0, sgd), step(f, 1.0, sgd), atol=0, rtol=0.05)


def test_ignoring_lambda_is_unbiased_and_noisier():
    critics = {
        name: SmallText(algorithm("a2c", lam=0.5), critic=name) for name in ("true", "wrong")
    }
    wrong = WRONG["lambda-ignored"]
    assert critics["true"].direction(RIGHT)["noise"] < critics["true"].direction(wrong)["noise"]
    assert critics["true"].direction(wrong)["bias"] < EXACT
    assert critics["wrong"].direction(wrong)["bias"] < EXACT
    assert critics["wrong"].direction(RIGHT)["bias"] > 0.3


def test_ignoring_lambda_is_lambda_one():
    r, v, w = (normal(3, 6, seed=seed) for seed in range(3))
    ends = (normal(3, 6, seed=3) > 0.5).float()
    wrong = WRONG["lambda-ignored"].gae(r, v, w, ends, 0.9, 0.2)
    assert_close(wrong, returns.gae(r, v, w, ends, 0.9, 1.0))


def test_a_dropped_mask_only_shortens_where_advantages_are_zero_on_padding():
    whole, emptied = BUGS["mask-dropped"].gradients.values()
    assert whole.on_padding and not emptied.on_padding
    harmless, harmful = (task.direction(WRONG["mask-dropped"]) for task in (emptied, whole))
    assert harmless["cosine"] == pytest.approx(1, abs=1e-5)
    assert harmless["length"] == pytest.approx(1 / whole.columns, rel=1e-4)
    assert harmful["cosine"] < 0.5 and harmful["length"] > 3 * harmless["length"]
    # A row's advantage is its score minus J.
    uncentred = replace(whole, centred=False).direction(WRONG["mask-dropped"])
    assert harmful["bias"] != pytest.approx(uncentred["bias"], rel=0.1)
    for task in (whole, emptied):
        assert task.direction(RIGHT)["bias"] < 1e-5
    small = replace(whole, columns=3)
    assert isinstance(small, SmallNetwork) and small.direction(RIGHT)["bias"] < 1e-5


def test_the_dropped_mask_of_ppo_is_that_of_the_plain_loss_at_ratio_one():
    logp, f = normal(3, 4).requires_grad_(), WRONG["mask-dropped"]
    advantages, mask = normal(3, 4, seed=1), torch.ones(3, 4)
    some = mask.clone()
    some[:, 2:] = 0
    pair = [
        f.policy_loss(logp, advantages, some, "episode"),
        f.clip_loss(logp, logp.detach(), advantages, some, 0.2, "token"),
        losses.policy_gradient_loss(logp, advantages, mask, "constant"),
    ]
    gradients = [torch.autograd.grad(loss, logp)[0] for loss in pair]
    assert_close(gradients[0], gradients[1])
    assert_close(gradients[0], gradients[2])
    clipped, kept = (
        torch.autograd.grad(f.clip_loss(logp, logp.detach() - 1, a, mask, 0.2, "token"), logp)[0]
        for a in (mask, -mask)
    )
    assert not clipped.any() and kept.all()  # beyond the clip where that helps, and where not


# Bugs of the collector, under a time limit


@pytest.fixture(scope="module")
def walks():
    return TimeLimit(two_state())


def table(logits, values):
    policy = TablePolicy(logits)
    policy.values.data = values.clone()
    return policy


def test_every_episode_is_there_once_and_goes_where_the_table_allows(walks):
    policy = TablePolicy(normal(2, 2, dtype=torch.float64))
    assert float(walks.probs(policy).sum()) == pytest.approx(1, abs=EXACT)
    rows = torch.cat([walks.states, walks.actions], 1).tolist()
    assert len({tuple(row) for row in rows}) == len(rows)
    assert (walks.states[walks.chances > 0, 0] == 0).all() and (walks.next_states[:, -1] == 0).all()
    assert torch.equal(walks.next_states[:, :-1], walks.states[:, 1:])


def test_the_limited_truth_is_the_sum_over_episodes(walks):
    logits = normal(2, 2, seed=1, dtype=torch.float64)
    advantages = walks.mdp.exact(logits).advantages
    moving = logits.clone().requires_grad_()
    logp, total = moving.log_softmax(-1), 0
    policy = TablePolicy(logits)
    for states, actions, p in zip(
        walks.states.tolist(), walks.actions.tolist(), walks.probs(policy), strict=True
    ):
        for s, a in list(zip(states, actions, strict=True))[:3]:
            total = total + p * logp[s, a] * advantages[s, a]
    (expected,) = torch.autograd.grad(total, moving)
    assert_close(walks.truth(policy), expected.flatten(), atol=EXACT, rtol=0)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_bootstrapped_segments_are_exact_and_their_critic_settles_at_the_true_values(
    walks, lam, monkeypatch
):
    monkeypatch.setattr("rlhf_pg.study.bugs.time_limit.A2C", replace(A2C, lam=lam))
    policy = walks.uniform()
    assert direction(walks.gradient(policy, RIGHT), walks.truth(policy))["bias"] < EXACT
    true = policy.values.detach().clone()
    policy.values.data.zero_()
    walks.fit(policy, RIGHT)
    assert_close(policy.values.detach(), true, atol=1e-8, rtol=0)
    # The bugs' claims hold for every lambda.
    policy = walks.uniform()
    reset = WRONG["reset-step"]
    assert direction(walks.gradient(policy, reset), walks.truth(policy))["bias"] < EXACT
    assert walks.direction(RIGHT)["bias"] < 1e-8 and walks.direction(reset)["bias"] > 0.01
    assert abs(walks.value(reset) - float(true[1])) > 0.3


def test_truncation_as_an_end_makes_the_orchard_worth_three_steps():
    task, wrong = TimeLimit(orchard()), WRONG["truncation-as-end"]
    assert task.best() == pytest.approx(12.6) and task.mdp.optimum().probs[0].tolist() == [0, 1]
    assert task.value(RIGHT) == pytest.approx(14)
    assert 1.4 < task.value(wrong) < 1.4 * (1 + 0.9)  # one or two steps are left
    (right,), (bad,) = task.learn(RIGHT), task.learn(wrong)
    assert right[60] > 12.5 and bad[60] < 10.5


def test_numbers_that_the_labels_state():
    (label,) = BUGS["reset-step"].numbers
    assert f"{TimeLimit(two_state()).value(RIGHT):.2f} is true" in label


# Classic mistakes


def test_a_turned_sign_is_exactly_the_wrong_way():
    found = SmallText().direction(WRONG["actor-sign"])
    assert found["cosine"] == pytest.approx(-1) and found["length"] == pytest.approx(1)
    # PPO's, at ratio 1, is minus the right one too.
    logp = normal(3, 4).requires_grad_()
    a, mask = normal(3, 4, seed=1), torch.ones(3, 4)
    right, wrong = (
        torch.autograd.grad(f.clip_loss(logp, logp.detach(), a, mask, 0.2, "token"), logp)[0]
        for f in (RIGHT, WRONG["actor-sign"])
    )
    assert_close(wrong, -right)


def test_without_the_log_every_step_is_weighted_by_its_probability():
    """By another way: the right gradient of the advantages times pi."""
    task = SmallText()
    policy = task.policy()
    rollout = task.rollout(policy, RIGHT)
    advantages, _ = task.advantages(rollout, task.logprobs(policy.logits).exp(), RIGHT)
    pi = policy.evaluate(rollout).logprobs.detach().exp()
    probs = task.logprobs(policy.logits).detach().exp()
    logp = policy.evaluate(rollout).logprobs
    gradient = expected_gradient(probs, logp, advantages * pi, rollout.mask, [policy.logits])
    expected = direction(gradient, task.exact(policy).gradient)
    found = task.direction(WRONG["log-missing"])
    assert found["bias"] == pytest.approx(expected["bias"], abs=EXACT) and found["bias"] > 0.5


def test_a_baseline_of_the_action_loses_what_the_action_changes_later():
    """With the true V, the gradient is that of E[sum_t r_t] with the later rewards cut off."""
    task = next(iter(BUGS["action-baseline"].gradients.values()))
    policy = task.policy()
    rollout = task.rollout(policy, RIGHT)
    probs, logp = task.logprobs(policy.logits).detach().exp(), policy.evaluate(rollout).logprobs
    own = expected_gradient(probs, logp, rollout.rewards, rollout.mask, [policy.logits])
    expected = direction(own, task.exact(policy).gradient)
    found = task.direction(WRONG["action-baseline"])
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=EXACT)
    assert replace(task, critic="zero").direction(WRONG["action-baseline"])["bias"] < EXACT


def test_an_undetached_target_ends_at_the_least_squared_td_error():
    """By linear least squares: the critic of least E[(r + gamma V(s') - V(s))^2]."""
    task = CriticDescent(two_state())
    weights = task.weights(task.start())
    rows, rights = [], []
    for s, a, following in torch.nonzero(weights).tolist():
        row = torch.zeros(2).double()
        row[s] += 1
        row[following] -= task.mdp.gamma
        root = weights[s, a, following].sqrt()
        rows.append(root * row)
        rights.append(root * task.mdp.rewards[s, a])
    least = torch.linalg.lstsq(torch.stack(rows), torch.stack(rights)[:, None]).solution[:, 0]
    assert task.value(WRONG["target-not-detached"]) == pytest.approx(float(least[1]), abs=1e-3)
    true = task.mdp.exact(task.start().logits)
    assert task.value(RIGHT) == pytest.approx(float(true.values[1]), abs=1e-6)
    assert (
        direction(task.gradient(task.start(), true.values), true.gradient.flatten())["bias"] < EXACT
    )
    (label,) = BUGS["target-not-detached"].numbers
    assert f"{float(true.values[1]):.2f} is true" in label


@pytest.mark.parametrize("baseline", [True, False])
def test_an_undetached_action_has_no_gradient_by_the_mean(baseline):
    task, wrong = Gaussian(baseline), WRONG["rsample-not-detached"]
    assert task.direction(RIGHT)["bias"] < EXACT
    by_mean, by_std = task.gradient(task.start(), wrong).tolist()
    assert by_mean == pytest.approx(0, abs=EXACT)
    assert by_std == pytest.approx(0 if baseline else 5, abs=EXACT)  # -E[r - b], E[r] = -5
    parameters = [torch.tensor([0.5]), torch.tensor([0.3])]
    samples = 0.5 + math.exp(0.3) * normal(200_000)
    assert float(task.objective(parameters)) == pytest.approx(
        float((-((samples - 2) ** 2)).mean()), abs=0.05
    )


def test_gradients_that_stay_add_up():
    later, first = BUGS["gradients-not-zeroed"].gradients.values()
    wrong = WRONG["gradients-not-zeroed"]
    assert first.direction(wrong)["bias"] == 0 and later.direction(RIGHT)["bias"] == 0
    # A rate of 0: the policy stays, and ten gradients are added to the eleventh.
    still = replace(later, lr=0.0).direction(wrong)
    assert still["length"] == pytest.approx(11) and still["cosine"] == pytest.approx(1)
    # In the learner: the second step of SGD goes twice as far, on a policy that stays.
    policy = SmallText().policy()
    rollout = SmallText().rollout(policy, RIGHT)
    before, moves = policy.logits.detach().clone(), []
    config = replace(BARE, max_grad_norm=0.0)
    sgd = torch.optim.SGD([policy.logits], lr=1.0)
    learner = ReplacedLearner(policy, config, wrong, sgd)
    for _ in range(2):
        learner.update(rollout)
        moves.append(policy.logits.detach() - before)
        policy.logits.data.copy_(before)
    assert_close(moves[1], 2 * moves[0])


def test_what_is_said_of_learning_with_classic_mistakes():
    ends = {}
    for name in ("actor-sign", "log-missing", "action-baseline", "gradients-not-zeroed"):
        task = next(iter(BUGS[name].curves.values()))
        ends[name] = [task.train(f, 0)[0][-1] for f in (RIGHT, WRONG[name])]
    assert all(right > wrong + 0.1 for right, wrong in ends.values())
    assert ends["actor-sign"][1] < -2
    gaussian = Gaussian()
    assert gaussian.learn(WRONG["rsample-not-detached"])[0][-1] == pytest.approx(-5)
    assert gaussian.learn(RIGHT)[0][-1] > -0.2


# CartPole


def test_the_learning_test_trains_with_what_it_is_given_and_remembers_it(monkeypatch):
    monkeypatch.setattr(cartpole, "STEPS", 2_000)
    monkeypatch.setattr(cartpole, "SEEDS", 1)
    called = []

    def counted(*arguments):
        called.append(1)
        return RIGHT.gae(*arguments)

    f = replace(RIGHT, gae=counted)
    first = cartpole.learning_test(f)
    assert called and first["solved"] == 0 and first["steps"][0] >= 2_000 and first["runs"] == 1
    count = len(called)
    assert cartpole.learning_test(f) == first and len(called) == count


@pytest.mark.parametrize("name", ["truncation-as-end", "reset-step", None])
def test_the_collector_is_told_what_the_bug_says(name):
    """Through the real collector, on a CartPole that is cut before it can fall."""
    f = WRONG[name] if name else RIGHT
    state = cartpole.start(f, seed=0, env_options={"max_episode_steps": 5})
    rollout = state.trainer.collector.segment(12)
    state.close()
    assert bool(rollout.mask.all()) == (name == "reset-step")
    ends = rollout.ends.bool()
    assert ends.any() and not ends[:, 3].any() and ends[:, 4].all()
    assert bool(rollout.next_values[ends].any()) == (name != "truncation-as-end")
