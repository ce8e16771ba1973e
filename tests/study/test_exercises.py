"""The exercises: right solutions pass, wrong ones are recognised, and the truths are true."""

import importlib
import inspect
import json
import re

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.cli import main
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.study.bugs.learner import TablePolicy
from rlhf_pg.study.exercises import EXERCISES, episodes
from rlhf_pg.study.exercises import grade as grading
from rlhf_pg.study.exercises.checks import Case, Expectation
from rlhf_pg.study.exercises.command import template
from rlhf_pg.study.exercises.grade import grade
from rlhf_pg.study.oracle import exact

MODULES = {name: importlib.import_module(f"rlhf_pg.study.exercises.{name}") for name in EXERCISES}
WRONG = [(name, wrong) for name, module in MODULES.items() for wrong in module.WRONG]
HEAD = "from collections.abc import Callable\n\nimport torch\nfrom torch import Tensor\n\n\n"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def solution(name, function):
    """A file with the source of a right or wrong function, under the name of the exercise."""
    source = inspect.getsource(function).replace(f"def {function.__name__}(", f"def {name}(", 1)
    with open("mine.py", "w") as file:
        file.write(HEAD + source)
    return "mine.py"


def graded(name, file="mine.py"):
    """The results of a file, in this process."""
    grading.main(name, file, "results.json")
    with open("results.json") as results:
        return json.load(results)


# Right and wrong solutions


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_solution_passes_from_its_file(name):
    results = graded(name, solution(name, getattr(MODULES[name], name)))
    assert all(check["passed"] for check in results["checks"]), results
    assert len(results["checks"]) == len(MODULES[name].CHECKS) and not results["running"]
    assert results["behaves_like"] == ""


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=lambda x: getattr(x, "__name__", x))
def test_a_wrong_solution_fails_and_is_recognised(name, wrong):
    results = graded(name, solution(name, wrong))
    assert not all(check["passed"] for check in results["checks"])
    assert results["behaves_like"] == wrong.__doc__
    assert not [c for c in results["checks"] if "Error" in c["text"]]  # wrong, but it runs


@pytest.mark.parametrize("name", EXERCISES)
def test_the_library_agrees(name):
    """Where the library has a function of the same arguments, it passes."""
    from rlhf_pg.core import baselines, losses, returns

    same = {
        "rewards_to_go": returns.rewards_to_go,
        "gae": returns.gae,
        "leave_one_out": baselines.leave_one_out,
        "value_loss": losses.value_loss,
        "ppo_clip_loss": losses.ppo_clip_loss,
        "reinforce_loss": losses.policy_gradient_loss,
    }
    if name in same:
        assert all(check["passed"] for check in grade(name, same[name])["checks"])


@pytest.mark.parametrize("name", EXERCISES)
def test_every_check_finds_some_of_the_mistakes(name):
    module = MODULES[name]
    for check in module.CHECKS:
        assert not all(check.run(wrong).passed for wrong in module.WRONG), check.name


def test_a_mistake_that_is_none_of_the_usual_ones_is_not_named():
    results = grade("leave_one_out", lambda scores: scores + 7)
    assert results["behaves_like"] == ""
    # A baseline of -7: wrong by hand, and no bias.
    assert [c["passed"] for c in results["checks"]] == [False, False, False, True]


def test_a_mistake_is_named_although_one_check_raises():
    """The score at index `length`, without the clamp of the wrong function, does not fit a row."""

    def score_on_pad(scores, logprobs, ref_logprobs, mask, beta):
        rewards = -beta * (logprobs - ref_logprobs) * mask
        rewards[torch.arange(len(scores)), mask.sum(1)] += scores
        return rewards

    results = grade("token_rewards", score_on_pad)
    first, second, third = results["checks"]
    assert "IndexError" in first["text"] and "IndexError" in second["text"]
    assert "bias 0.684, cosine 0.895" in third["text"]
    assert "the score on the pad" in results["behaves_like"]


# The truths


def test_the_task_and_its_truths_are_the_oracles():
    every = episodes.every_episode()
    assert len(every.tokens) == 15 and len({tuple(row) for row in every.tokens.tolist()}) == 15
    zeros = torch.where(every.mask, every.rewards, 0.0)
    policy = TablePolicy(every.logits)
    blank = torch.zeros_like(zeros)
    rollout = Rollout(
        every.states, every.tokens, blank, blank, blank, zeros, every.ends, every.mask
    )
    ref = every.ref_logits.log_softmax(-1)[every.states, every.tokens]
    for beta in (0.0, 0.5):
        answer = exact(policy, rollout, ref, beta, parameters=[policy.logits])

        def returns(logits, beta=beta):
            ratio = torch.where(every.mask, episodes.logprobs(logits) - ref, 0.0).sum(1)
            return every.scores - beta * ratio

        assert_close(answer.gradient, episodes.truth(returns).flatten(), atol=1e-12, rtol=0)
        if not beta:
            assert_close(answer.probs, episodes.probs(every.logits), atol=1e-12, rtol=0)
            values = torch.where(every.mask, episodes.values()[every.states], 0.0)
            assert_close(answer.values, values, atol=1e-12, rtol=0)
            to_go = episodes.gradient_of_weights(episodes.returns_to_go()).flatten()
            assert_close(answer.gradient, to_go, atol=1e-12, rtol=0)


def test_every_exercise_but_the_sampler_has_hand_values_and_an_expectation_or_a_variance():
    for name, module in MODULES.items():
        kinds = [type(check) for check in module.CHECKS]
        assert name == "sample_tokens" or Case in kinds
        assert Expectation in kinds or name in ("sample_tokens", "optimal_baseline")
        assert len({wrong.__doc__ for wrong in module.WRONG}) == len(module.WRONG) >= 5


def test_gradients_are_those_of_finite_differences():
    """The hand-written gradients, where the function has any."""
    for name, module in MODULES.items():
        right = getattr(module, name)
        for check in module.CHECKS:
            if not isinstance(check, Case):
                continue
            for i, gradient in check.gradients.items():
                if gradient is None:
                    continue
                ends = []
                weights = torch.randn(torch.tensor(gradient).shape).double()
                for step in (1e-6, -1e-6):
                    arguments = [torch.tensor(x) if isinstance(x, list) else x
                                 for x in check.arguments]  # fmt: skip
                    arguments = [x.double() if isinstance(x, torch.Tensor) and x.dtype != torch.bool
                                 else x for x in arguments]  # fmt: skip
                    arguments[i] = arguments[i] + step * weights
                    ends.append(float(right(*arguments)))
                expected = float((torch.tensor(gradient) * weights).sum())
                assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, abs=1e-5)


# Templates, and what the command prints


@pytest.mark.parametrize("name", EXERCISES)
def test_a_template_has_the_signature_and_no_answer(name):
    text = template(name)
    right = getattr(MODULES[name], name)
    names = {}
    exec(compile(text, "template", "exec"), names)
    assert (
        inspect.signature(names[name]).parameters.keys()
        == inspect.signature(right).parameters.keys()
    )
    assert names[name].__doc__ == right.__doc__ and EXERCISES[name].task in text
    last = inspect.getsource(right).strip().splitlines()[-1].strip()
    assert last.startswith("return") and last not in text
    with pytest.raises(NotImplementedError, match=name):
        names[name](*[None] * len(inspect.signature(right).parameters))


def test_the_list_and_a_template_that_is_never_overwritten(tmp_path, capsys):
    assert main(["study", "exercise"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed and x.task in listed for name, x in EXERCISES.items())
    assert main(["study", "exercise", "leave-one-out"]) == 0
    assert (tmp_path / "leave_one_out.py").read_text() == template("leave_one_out")
    assert "study exercise leave_one_out leave_one_out.py" in capsys.readouterr().out
    (tmp_path / "leave_one_out.py").write_text("mine")
    assert main(["study", "exercise", "leave_one_out"]) == 2
    assert "leave_one_out.py exists and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "leave_one_out.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gea", "no exercise 'gea'; did you mean 'gae'?"),
        ("gae nowhere.py", "no file nowhere.py"),
        ("gae x.py --timeout 0", "timeout must be above 0"),
    ],
)
def test_wrong_input_is_named(words, expected, capsys):
    assert main(["study", "exercise", *words.split()]) == 2
    assert expected in capsys.readouterr().err


def test_a_solution_is_graded_by_the_command(capfd, monkeypatch):
    file = solution("gae", MODULES["gae"].gae)
    with monkeypatch.context() as here:  # one process is enough for this test
        here.setattr("rlhf_pg.study.exercises.command.graded", lambda name, *_: graded(name))
        assert main(["study", "exercise", "gae", file]) == 0
    printed = capfd.readouterr().out
    assert "7 of 7 checks pass" in printed and "bias 0.000, cosine 1.000" in printed
    assert "TD errors, lambda 0\n" in printed

    file = solution("reinforce_loss", MODULES["reinforce_loss"].sign_turned)
    with pytest.raises(SystemExit) as stopped:
        main(["study", "exercise", "reinforce_loss", file])
    printed = capfd.readouterr().out
    assert stopped.value.code == 1 and "0 of 4 checks pass" in printed
    assert "bias 2.000, cosine -1.000" in printed
    assert "behaves like: the sign of the actor's loss is turned" in printed


def test_an_endless_loop_is_cut_and_what_came_before_is_kept(tmp_path, capfd):
    (tmp_path / "mine.py").write_text(
        "def leave_one_out(scores):\n    while len(scores) > 1:\n        pass\n    return scores\n"
    )
    with pytest.raises(SystemExit):
        main(["study", "exercise", "leave_one_out", "mine.py", "--timeout", "1"])
    printed = capfd.readouterr().out
    assert "8 samples, 3 of them right" in printed and "returned [[1, 1, 1, 0" in printed
    assert "two prompts of 3 samples\n          cut after 1 s: an endless loop?" in printed
    assert "K = 2" not in printed


# A learner's errors


ERRORS = {
    "an exception": (
        "def gae(rewards, *others):\n    x = rewards\n    return x[9]\n",
        "line 3: return x[9]\nIndexError",
    ),
    "arguments that do not fit": ("def gae(rewards):\n    return rewards\n", "line 1: def gae"),
    "no function": ("def gea(rewards):\n    return rewards\n", "mine.py defines no function gae"),
    "wrong syntax": ("def gae(rewards:\n    return\n", "line 1: def gae(rewards:\nSyntaxError"),
    "an exit": ("raise SystemExit(0)\n", "line 1: raise SystemExit(0)\nSystemExit: 0"),
    "no return": ("def gae(*x):\n    x[0] + 1\n", "the function returns None"),
    "no tensor": ("def gae(*x):\n    return 1.5\n", "returns a float instead of a tensor"),
    "two results": ("def gae(*x):\n    return x[0], x[1]\n", "returns 2 results instead of 1"),
    "another shape": ("def gae(*x):\n    return x[0][0]\n", "shape (1, 2) expected, not (2,)"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_shows_the_learners_line(case, tmp_path):
    source, expected = ERRORS[case]
    (tmp_path / "mine.py").write_text(source)
    results = graded("gae")
    assert expected in results["checks"][0]["text"] and not results["behaves_like"]
    assert not results["checks"][0]["passed"] and not results["running"]


def test_a_loss_without_a_graph_is_wrong_and_no_crash():
    results = grade("reinforce_loss", lambda logprobs, returns, mask: torch.zeros(()).double())
    assert not any(check["passed"] for check in results["checks"])
    assert not re.search("Error", str(results))


def test_a_solution_may_change_its_arguments_in_place():
    def in_place(scores):
        scores -= scores.mean(1, keepdim=True)
        scores *= scores.shape[1] / (scores.shape[1] - 1)
        return scores

    assert all(check["passed"] for check in grade("leave_one_out", in_place)["checks"])
