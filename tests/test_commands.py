"""The commands from a corpus to samples: finetune, reward, train, sample."""

import json

import pytest
from rich.console import Console

from reward_models.loading import load_reward
from rlhf_pg import commands, progress
from rlhf_pg.cli import main
from rlhf_pg.commands import _read_pairs
from rlhf_pg.language import models
from rlhf_pg.language.config import RewardConfig, preset
from rlhf_pg.language.train import Trainer
from rlhf_pg.runs import METRICS, read_jsonl
from support.language import PROMPTS, TEXTS, tiny_lm, write_rows


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = models.train_tokenizer(TEXTS, "word")
    models.save(tmp_path / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    write_rows(tmp_path / "corpus.jsonl", [{"text": text} for text in TEXTS * 10])
    write_rows(
        tmp_path / "prompts.jsonl", [{"prompt": p, "answer": i} for i, p in enumerate(PROMPTS)]
    )
    pairs = [
        {"prompt": p, "chosen": f" is good{end}", "rejected": f" is dull{end}"}
        for p in PROMPTS
        for end in (" .", " and clear .", " and long .", "")
    ]
    write_rows(tmp_path / "pairs.jsonl", pairs * 20)
    return tmp_path


@pytest.fixture
def shown(monkeypatch):
    """What is printed on a terminal of 100 columns, with its colours."""
    import io

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, highlight=False, soft_wrap=True)
    monkeypatch.setattr(commands, "console", console)
    monkeypatch.setattr(progress, "console", console)
    return file


def test_from_a_corpus_to_a_policy_by_four_commands(here, capsys):
    small = "--width 16 --layers 1 --heads 2 --context 48 --epochs 2 --lr 0.01"
    assert main(f"finetune --data corpus.jsonl {small}".split()) == 0
    learner = "--learner.epochs 3 --learner.lr 0.01"
    assert main(f"reward --data pairs.jsonl {learner}".split()) == 0
    lines = read_jsonl(here / "runs/reward/metrics.jsonl")
    assert set().union(*lines) <= set(METRICS) and lines[-1]["accuracy"] > 0.9
    words = "train --data prompts.jsonl --rows 8 --iterations 2 --max_new_tokens 6 --device cpu"
    assert main(words.split()) == 0
    assert (here / "runs/ppo/policy/model.safetensors").is_file()
    assert main("sample --data prompts.jsonl --reward runs/reward --max_new_tokens 6".split()) == 0
    printed = capsys.readouterr()
    assert "read completions: rlhf-pg sample runs/ppo" in printed.out and not printed.err
    assert "held-out accuracy" in printed.out and "perplexity" in printed.out


def test_the_command_holds_out_pairs_that_it_does_not_train_on(here, monkeypatch):
    write_rows(here / "few.jsonl", [
        {"prompt": "the", "chosen": f" film {i}", "rejected": " is dull"} for i in range(40)
    ])  # fmt: skip
    config = RewardConfig(data="few.jsonl")
    learned, held_out = ({row["chosen"] for row in rows} for rows in _read_pairs(config, None))
    assert len(learned) + len(held_out) == 40 and held_out and not learned & held_out
    config.test, config.data = "few.jsonl", "pairs.jsonl"
    learned, held_out = _read_pairs(config, None)
    assert len(held_out) == 40 and len(learned) == 400
    seen = []
    monkeypatch.setattr(commands, "fit_reward_model", lambda *given: seen.append(given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        commands.reward(RewardConfig(data="few.jsonl", model="base", output="out"))
    chosen = [{row["chosen"] for row in rows} for rows in seen[0][1:3]]
    assert not chosen[0] & chosen[1] and len(chosen[0] | chosen[1]) == 40


def test_a_reward_is_known_by_its_run_alone_and_in_a_sum(here):
    learner = "--learner.lr 0.01 --output judge"
    assert main(f"reward --model base --data pairs.jsonl {learner}".split()) == 0
    whole = load_reward("judge/reward_model")(["the film"] * 2, [" is good .", " is dull ."])
    assert load_reward("judge")(["the film"] * 2, [" is good .", " is dull ."]) == whole
    total, parts = load_reward("judge + 0.1*length").with_parts(["the film"], [" is good ."])
    assert list(parts) == ["judge", "length"]
    assert total[0] == pytest.approx(parts["judge"][0] + 0.1 * parts["length"][0])


def test_a_reward_reports_its_calibration_and_how_accuracy_grows_with_pairs(here, shown):
    learner = "--learner.epochs 3 --learner.lr 0.01 --output judge"
    words = f"reward --model base --data pairs.jsonl --curve [8,300] {learner}"
    assert main(words.split()) == 0
    curve = json.loads((here / "judge/learning_curve.json").read_text())
    assert [point["pairs"] for point in curve] == [8, 300]
    assert curve[1]["accuracy"] >= max(curve[0]["accuracy"], 0.9)
    printed = shown.getvalue()
    assert "Calibration" in printed and "300 pairs  held-out accuracy" in printed
    report = json.loads((here / "judge/reward_model/reward_model.json").read_text())
    assert sum(row["pairs"] for row in report["calibration"]) == report["held_out_pairs"]
    assert curve[0]["loss"] > 2 * report["loss"]  # each begins untrained, not where the run ended


def test_a_reward_is_trained_without_a_second_copy_of_its_base(here, monkeypatch, capsys):
    """The language model is never opened beside the reward model that is made of it."""
    monkeypatch.setattr(models, "open_pretrained", only_tokenizers(models.open_pretrained))
    words = "reward --model base --data pairs.jsonl --learner.steps 2 --output judge"
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "the longer one wins" in printed and "40 of 400 pairs held out; no pairs are" in printed
    assert "warning: the 720 training texts are only 8 different ones" in printed


def only_tokenizers(open_pretrained):
    def opened(auto_class, *arguments, **options):
        assert auto_class.__name__ == "AutoTokenizer"
        return open_pretrained(auto_class, *arguments, **options)

    return opened


def test_completions_with_labels_train_a_reward(here, capsys):
    rows = [
        {"question": p, "completion": f" is {word}{end}", "label": word == "good"}
        for p in PROMPTS
        for word in ("good", "dull")
        for end in (" .", " and clear .", " and long .", "")
    ] * 3
    write_rows(here / "labels.jsonl", rows)
    words = "reward --model base --data labels.jsonl --columns prompt=question --learner.lr 0.01"
    assert main([*words.split(), "--learner.steps", "40", "--output", "judge"]) == 0
    good, bad = load_reward("judge")(["the film"] * 2, [" is good .", " is dull ."])
    assert good > bad


def test_a_curve_beyond_the_pairs_is_an_error(here, capsys):
    assert main("reward --model base --data pairs.jsonl --curve [9999]".split()) == 2
    assert "there are 360 pairs to train on, not 9999" in capsys.readouterr().err


def test_a_composed_reward_is_logged_part_by_part(here):
    words = (
        "train --algorithm reinforce --model base --data prompts.jsonl --rows 8 --iterations 1 "
        "--max_new_tokens 6 --device cpu --output out --reward"
    )
    assert main([*words.split(), "length:target=3 + 0.5*missing-eos"]) == 0
    (line,) = read_jsonl(here / "out/metrics.jsonl")
    assert {"reward/length", "reward/missing-eos"} <= set(line)
    total = line["reward/length"] + 0.5 * line["reward/missing-eos"]
    assert line["score"] == pytest.approx(total, abs=1e-5)


def test_pairs_keep_whether_their_texts_ended(here):
    rows = [{"prompt": "a", "chosen": " b", "rejected": " c", "chosen_finished": False}] * 20
    write_rows(here / "ends.jsonl", rows)
    pairs = commands._pairs("ends.jsonl", "train", None)
    assert pairs == rows


def sampled(*words):
    assert main(["sample", "base", "--max_new_tokens", "6", *words]) == 0


def test_samples_are_repeated_by_their_seed_and_greedy_ones_by_any(capsys):
    texts = []
    for words in (["--seed", "1"], ["--seed", "1"], ["--seed", "2"]):
        sampled("--data", "prompts.jsonl", *words)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    for seed in ("1", "2"):
        sampled("--data", "prompts.jsonl", "--greedy", "true", "--seed", seed)
    half = capsys.readouterr().out.splitlines()
    assert half[: len(half) // 2] == half[len(half) // 2 :]


def test_prompts_are_spread_over_the_data_and_repeated(capsys):
    sampled("--data", "prompts.jsonl", "--count", "2", "--samples_per_prompt", "3")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith(PROMPTS[0]) for line in lines[:3])
    assert all(line.startswith(PROMPTS[2]) for line in lines[3:])


def test_one_prompt_is_completed_as_it_stands(capsys):
    sampled("--prompt", "the film")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("the film ")


def test_text_of_people_and_models_is_never_markup(here, shown, monkeypatch):
    """Brackets and backslashes are shown as they are."""
    odd = ["[bold]a[/bold]", "[/x]", "\\[red]b", "c\\", "[link=http://x]d"]
    write_rows(here / "odd.jsonl", [{"prompt": text} for text in odd])

    def echo(*arguments):
        completions = sample(*arguments)
        completions.texts = list(odd)
        return completions

    sample = commands.sample_completions
    monkeypatch.setattr(commands, "sample_completions", echo)
    sampled("--data", "odd.jsonl", "--reward", "length")
    plain = strip_colours(shown.getvalue())
    for text in odd:
        assert text + text in plain


def strip_colours(text):
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_reward_that_does_not_apply_is_marked(here, capsys):
    (here / "mine.py").write_text(
        "def judge(completions, answer, **_):\n"
        "    return [None if a == 0 else float(a) for a in answer]\n"
    )
    sampled("--data", "prompts.jsonl", "--count", "5", "--reward", "mine.py:judge")
    marks = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert marks == ["n/a", "+1.00", "+2.00", "+3.00", "+4.00"]


def test_columns_of_the_data_do_not_hide_what_a_reward_is_called_with(here, capsys):
    rows = [{"prompt": p, "finished": "no", "completions": "no"} for p in PROMPTS]
    write_rows(here / "columns.jsonl", rows)
    (here / "mine.py").write_text(
        "def judge(prompts, completions, finished, **_):\n"
        "    assert isinstance(finished[0], bool) and 'no' not in completions\n"
        "    return [1.0] * len(prompts)\n"
    )
    words = "sample base --max_new_tokens 6 --data columns.jsonl --reward mine.py:judge"
    assert main(words.split()) == 2
    assert "rename the column" in capsys.readouterr().err


def test_the_gold_of_film_notes_is_measured_without_being_named(here):
    write_rows(here / "film_notes.jsonl", [{"prompt": "the film"}])
    golds = {}
    for source in ("film-notes", "film_notes.jsonl"):
        config = preset("reinforce")
        config.model, config.reward, config.data = "base", "length", source
        config.max_new_tokens, config.device = 8, "cpu"
        golds[source] = Trainer(config).gold
    assert list(golds["film-notes"].members) == ["film-notes-gold"]
    assert golds["film_notes.jsonl"] is None
