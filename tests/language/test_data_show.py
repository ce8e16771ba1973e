"""`rlhf-pg data show`: how a source is read, with right counts."""

import pytest

from rlhf_pg.cli import main
from rlhf_pg.language.data_show import bins
from support.language import write_rows


def shown(path, capsys, *options):
    assert main(["data", "show", path, *options]) == 0
    return capsys.readouterr().out


def write(tmp_path, *rows):
    return write_rows(tmp_path / "rows.jsonl", rows)


def test_ranges_hold_every_length_once():
    lengths = [3, 3, 4, 9, 17, 40]
    counted = bins(lengths, 8)
    assert sum(number for _, _, number in counted) == 6 and len(counted) <= 8
    assert counted[0] == (3, 7, 3) and counted[-1][1] >= 40
    assert bins([5, 5], 8) == [(5, 5, 2)]


def test_pairs_with_an_implicit_prompt_are_shown_as_they_are_read(tmp_path, capsys):
    path = write(tmp_path, {"chosen": "a b c", "rejected": "a b d e", "margin": 1})
    printed = shown(path, capsys)
    assert (
        ": 1 row\n" in printed
        and "chosen + rejected, the prompt is what both begin with" in printed
    )
    assert "rlhf-pg reward" in printed and "margin: passed" in printed
    assert "prompt: 'a b'" in printed and "chosen: ' c'" in printed
    assert "words of rejected: mean 2.0, median 2, 2 to 2" in printed


def test_three_rows_and_no_more(tmp_path, capsys):
    printed = shown(write(tmp_path, *({"text": f"word {i}"} for i in range(5))), capsys)
    assert "'word 2'" in printed and "'word 3'" not in printed
    assert "corpus (text): for rlhf-pg finetune" in printed


def test_tokens_are_those_of_the_model(tmp_path, base, capsys):
    printed = shown(write(tmp_path, {"prompt": "the film ."}), capsys, "--model", base)
    assert "tokens of prompt: mean 3.0" in printed and "rlhf-pg train" in printed


def test_columns_that_suit_nothing_are_reported(tmp_path, capsys):
    printed = shown(write(tmp_path, {"question": "why ?"}), capsys)
    assert "suits no command" in printed and "question: 'why ?'" in printed


def test_messages_are_shown_without_a_chat_template(tmp_path, capsys):
    printed = shown(write(tmp_path, {"messages": [{"role": "user", "content": "hi"}]}), capsys)
    assert "lists of messages" in printed and "'role': 'user'" in printed


def test_texts_from_data_are_no_markup(tmp_path, capsys):
    assert "[bold]x[/bold]" in shown(write(tmp_path, {"text": "[bold]x[/bold]"}), capsys)


def test_film_notes_show_all_three_of_their_parts(capsys):
    printed = shown("film-notes", capsys, "--split", "test")
    for kind in ("corpus", "prompts", "preferences"):
        assert f"film-notes, {kind}: " in printed


@pytest.mark.parametrize("arguments", [["data"], ["data", "sow"]])
def test_half_a_command_is_told_the_whole(arguments, capsys):
    assert main(arguments) == 2
    assert "did you mean 'data show'" in capsys.readouterr().err


def test_what_each_command_would_do_is_said(tmp_path, capsys):
    rows = [
        {"prompt": f"p{i // 2}", "chosen": f"good {i} .", "rejected": f"bad {i}", "n": i}
        for i in range(40)
    ] + [{"prompt": "q", "chosen": "x", "rejected": "x", "n": 0}]
    printed = shown(write(tmp_path, *rows), capsys)
    assert "not for rlhf-pg finetune: corpus need text or prompt + completion" in printed
    assert "samples from 41 prompts, 21 different; the reward gets chosen, rejected, n" in printed
    assert "learns from 41 pairs, leaves out 1 whose completions are equal, holds out 4" in printed
    assert "no prompts and completions on both sides; 80 different" in printed
    assert "the longer one (in characters) is chosen in 100 %" in printed


def test_a_wrong_row_is_shown_as_what_stops_a_command(tmp_path, capsys):
    path = tmp_path / "rows.txt"
    path.write_text("one\ntwo\n")
    printed = shown(str(path), capsys)
    assert "would stop: 2 rows are too few" in printed and "samples from 2 prompts" in printed


def test_labelled_completions_and_other_names_are_shown(tmp_path, capsys):
    rows = [{"q": "a", "completion": f" {i}", "label": bool(i % 2)} for i in range(20)]
    printed = shown(write(tmp_path, *rows), capsys, "--columns", "prompt=q")
    assert "preferences (prompt + completion + label): for rlhf-pg reward" in printed
    assert "makes 10 pairs" in printed
