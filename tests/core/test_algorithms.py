"""The named algorithms are what their papers say."""

from dataclasses import asdict, fields

import pytest

from rlhf_pg.core.algorithms import ALGORITHMS, SYNONYMS, LearnerConfig, algorithm


def test_the_names():
    assert set(ALGORITHMS) == {
        "reinforce",
        "reinforce-baseline",
        "actor-critic",
        "a2c",
        "ppo",
        "rloo",
        "grpo",
        "dr-grpo",
        "dapo",
        "gspo",
        "cispo",
    }


@pytest.mark.parametrize(
    "name, choices",
    [
        ("reinforce", {"baseline": "none", "clip": None}),
        ("reinforce-baseline", {"baseline": "critic", "lam": 1.0, "clip": None}),
        ("actor-critic", {"baseline": "critic", "lam": 0.0, "clip": None}),
        ("a2c", {"baseline": "critic", "clip": None, "epochs": 1, "minibatches": 1}),
        ("ppo", {"clip": 0.2, "value_clip": 0.2, "lam": 0.95, "epochs": 4}),
        ("rloo", {"baseline": "leave-one-out", "kl_in": "reward"}),
        ("grpo", {"baseline": "group", "clip": 0.2, "kl_in": "loss"}),
        ("dr-grpo", {"baseline": "group-centred", "reduction": "episode"}),
        ("dapo", {"clip": 0.2, "clip_high": 0.28, "reduction": "token", "ratio": "token"}),
        ("gspo", {"ratio": "sequence", "reduction": "row", "clip": 3e-4, "clip_high": 4e-4}),
        ("cispo", {"clip_weights": True, "clip": 1.0, "clip_high": 4.0, "reduction": "token"}),
    ],
)
def test_an_algorithm_is_a_choice_of_options(name, choices):
    assert choices.items() <= asdict(algorithm(name)).items()


def test_the_algorithms_called_exact_sum_over_steps():
    for name in ("reinforce", "reinforce-baseline", "rloo"):
        config = algorithm(name)
        assert config.reduction == "episode" and not config.whiten_advantages


def test_overrides_change_a_copy():
    changed = algorithm("ppo", lr=0.5, clip=0.1)
    assert (changed.lr, changed.clip) == (0.5, 0.1)
    assert ALGORITHMS["ppo"].clip == 0.2
    changed = algorithm("ppo")
    changed.epochs = 99
    assert ALGORITHMS["ppo"].epochs == 4


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="unknown algorithm 'poo'.*did you mean 'ppo'"):
        algorithm("poo")
    with pytest.raises(ValueError, match="use one of reinforce, .*cispo$"):
        algorithm("xyzzy")


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("learning_rate", "; did you mean 'lr'?"),
        ("gae_lambda", "; did you mean 'lam'?"),
        ("epoch", "; did you mean 'epochs'?"),
        ("xyzzy", ": use one of baseline, gamma, .*seed"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(option, hint):
    with pytest.raises(ValueError, match=f"unknown option '{option}' of the learner{hint}"):
        algorithm("ppo", **{option: 1})


def test_other_libraries_names_lead_to_options_that_exist():
    known = {field.name for field in fields(LearnerConfig)}
    assert {name for names in SYNONYMS.values() for name in names} <= known
    assert not set(SYNONYMS) & known


def test_every_option_has_a_default():
    assert LearnerConfig() == LearnerConfig(**asdict(LearnerConfig()))
    assert len(fields(LearnerConfig)) == len(asdict(LearnerConfig()))
