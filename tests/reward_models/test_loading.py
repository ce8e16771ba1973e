"""The spelling of rewards, and what is said of a wrong one."""

import subprocess
import sys

import pytest

from reward_models import RewardError
from reward_models.combine import Clip, Ensemble, Normalise, WeightedSum
from reward_models.loading import check_scores, load_reward

from .conftest import tiny_config, word_tokenizer

MINE = """
import dataclasses

@dataclasses.dataclass
class Holder:
    scale: float = 2.0

def polite(completions, **kwargs):
    return [Holder().scale * ("please" in text) for text in completions]

def broken(completions):
    return [1 / 0]
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def scores(spec, *completions, **options):
    reward = load_reward(spec, **options)
    assert isinstance(reward, WeightedSum)
    return reward.with_parts(["p"] * len(completions), completions, finished=[True, False])


def test_a_rule_with_parameters():
    assert scores("length:target=4", "a b c d", "a b") == ([0, -0.5], {"length": [0, -0.5]})


def test_a_weighted_sum_keeps_each_part_by_name():
    total, parts = scores("0.5*length:target=4 + -2*keyword:words=good+great", "good c", "a b c d")
    assert parts == {"length": [-0.5, 0], "keyword": [0.5, 0]}
    assert total == [-1.25, 0]


def test_a_list_a_mapping_and_callables_say_the_same():
    def polite(completions):
        return [1.0, 0.0]

    for spec in (
        ["length:target=4", "1e-1*missing-eos"],
        {"length": "length:target=4", "missing-eos": "0.1*missing-eos:penalty=1"},
        "length:target=4 + .1*missing-eos",
    ):
        total, parts = scores(spec, "a b c d", "a b")
        assert total == pytest.approx([0, -0.6])
        assert list(parts) == ["length", "missing-eos"]
    assert scores([polite, "sentiment"], "x", "x")[1]["polite"] == [1, 0]
    assert scores(polite, "x", "x")[0] == [1, 0]
    loaded = load_reward("length + distinct")
    assert load_reward(loaded) is loaded


def test_the_same_name_twice_is_numbered():
    parts = scores("distinct:n=1 + distinct:n=2", "a a", "a b")[1]
    assert list(parts) == ["distinct", "distinct-2"]


def test_wrappers_nest_and_take_rules_with_several_parameters():
    reward = load_reward(
        "worst(length:target=4, overlength:limit=2,penalty=0.5) + 0.1*clip(normalise(sentiment), "
        "-0.5, .5)"
    )
    worst, clip = reward.members["worst"], reward.members["clip"]
    assert isinstance(worst, Ensemble) and worst.how == "worst"
    assert isinstance(clip, Clip) and (clip.low, clip.high) == (-0.5, 0.5)
    assert isinstance(clip.members["normalise"], Normalise)
    total, parts = reward.with_parts(["p"], ["a b c d"])
    assert parts["worst/length"] == [0] and parts["worst/overlength"] == [-1]
    assert total == [-1]
    mean = load_reward("mean(length:target=4, length:target=2)").members["mean"]
    assert list(mean.members) == ["length", "length-2"]


def test_a_regex_with_commas_brackets_and_plus_is_safe_in_a_list():
    pattern = r"^\w{1,3}, (a + b$"
    with pytest.raises(RewardError, match="brackets do not match.*in a list"):
        load_reward(f"regex:pattern={pattern}")
    assert scores([r"2*regex:pattern=\w{1,3}, x \+ y"], "ab, x + y", "x")[0] == [2, 0]


def test_a_function_in_a_file(mine):
    assert scores(f"0.5*{mine}:polite", "yes please", "no") == ([1, 0], {"polite": [2, 0]})
    with pytest.raises(RewardError, match=r"broken at .*mine.py:12: ZeroDivisionError"):
        scores(f"{mine}:broken", "a", "b")
    with pytest.raises(RewardError, match="no function 'polit'. Did you mean 'polite'"):
        load_reward(f"{mine}:polit")
    with pytest.raises(RewardError, match="no such file: 'nowhere.py'"):
        load_reward("nowhere.py:polite")


def test_a_file_that_cannot_be_imported_names_the_line(tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\nraise KeyError('why')\n")
    with pytest.raises(RewardError, match="bad.py': KeyError at line 2: 'why'"):
        load_reward(f"{tmp_path / 'bad.py'}:f")
    (tmp_path / "syntax.py").write_text("def f(:\n")
    with pytest.raises(RewardError, match="SyntaxError"):
        load_reward(f"{tmp_path / 'syntax.py'}:f")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(RewardError, match="exits.py': SystemExit at line 1: 3"):
        load_reward(f"{tmp_path / 'exits.py'}:f")


def test_a_function_in_a_module_beside_the_user(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    before = list(sys.path)
    assert scores("mine:polite", "please", "no")[0] == [2, 0]
    assert sys.path == before
    with pytest.raises(RewardError, match="cannot import 'nowhere': ModuleNotFoundError"):
        load_reward("nowhere:f")


def test_a_trained_reward_model_and_a_classifier_in_a_folder(tmp_path):
    from transformers import AutoModelForSequenceClassification

    from reward_models.reward_model import RewardModel

    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    config = tiny_config("gpt2", len(tokenizer))
    model = RewardModel.from_base(config, tokenizer, device="cpu")
    model.mean = 5.0
    model.save_pretrained(tmp_path / "my rm")
    total, parts = scores(f"{tmp_path}/my rm", "the film", "a plot", device="cpu")
    direct = model(["p"] * 2, ["the film", "a plot"], finished=[True, False])
    assert total == parts["my rm"] == pytest.approx(direct, abs=1e-5)

    config.id2label, config.pad_token_id = {0: "dull", 1: "great"}, 0
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "cl")
    tokenizer.save_pretrained(tmp_path / "cl")
    logprob = scores(
        f"{tmp_path}/cl#great:score=logprob,batch_size=1", "the film", "a", device="cpu"
    )
    prob = scores(f"{tmp_path}/cl:score=prob", "the film", "a", label="great", device="cpu")
    assert list(logprob[1]) == ["cl#great"] and list(prob[1]) == ["cl"]
    assert all(score < 0 for score in logprob[0]) and all(0 < score < 1 for score in prob[0])
    with pytest.raises(RewardError, match="batch_size is 'x'"):
        load_reward(f"{tmp_path}/cl#great:batch_size=x")
    with pytest.raises(RewardError, match="no parameter 'bach'"):
        load_reward(f"{tmp_path}/cl#great:bach=1")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("lenght", "unknown reward 'lenght'. Did you mean 'length'"),
        ("lenght:target=3", "unknown reward 'lenght'. Did you mean 'length'"),
        ("no reward: at all", "unknown reward"),
        ("0.5*", "unknown reward"),
        ("", "an empty reward"),
        ("length + ", "an empty reward"),
        ([], "no reward given"),
        ([3], "text or a callable, not int"),
        ("some/none/reward", "no such folder"),
        ("runs/none", "no reward model at runs/none; `rlhf-pg reward` makes one"),
        ("clip(length)", "write clip"),
        ("clip(length, 0)", "write clip"),
        ("normalise(length, sentiment)", "takes one reward"),
        ("mean(length", "brackets do not match"),
        ("length:target=3 + mine.py:f:scale=2", "takes no parameters"),
    ],
)
def test_wrong_spellings_are_named_with_a_remedy(spec, says):
    with pytest.raises(RewardError, match=says) as error:
        load_reward(spec)
    assert "\n" not in str(error.value)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, reward_models, reward_models.rules, reward_models.loading as l\n"
        "l.load_reward('0.5*length + worst(sentiment, distinct)')\n"
        "import reward_models.config, reward_models.files, reward_models.pretrained\n"
        "heavy = {'torch', 'transformers', 'numpy', 'rlhf_pg'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_check_of_scores_is_here_too():
    assert check_scores([1], 1, "r") == [1.0]
