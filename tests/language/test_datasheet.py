"""`rlhf-pg data show`: what a source is taken for, counted right."""

import json

import pytest
from rlhf_pg.language.datasheet import bins

from rlhf_pg.cli import main


def shown(path, capsys, *options):
    assert main(["data", "show", str(path), *options]) == 0
    return capsys.readouterr().out


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ranges_hold_every_length_once():
    lengths = [3, 3, 4, 9, 17, 40]
    counted = bins(lengths, 8)
    assert sum(number for _, _, number in counted) == 6 and len(counted) <= 8
    assert counted[0] == (3, 7, 3) and counted[-1][1] >= 40
    assert bins([5, 5], 8) == [(5, 5, 2)]


def test_pairs_with_an_implicit_prompt_are_shown_as_they_are_read(tmp_path, capsys):
    path = write(tmp_path, {"chosen": "a b c", "rejected": "a b d e", "margin": 1})
    said = shown(path, capsys)
    assert ": 1 row\n" in said and "chosen + rejected, the prompt is what both begin with" in said
    assert "rlhf-pg reward" in said and "margin: passed" in said
    assert "prompt: 'a b'" in said and "chosen: ' c'" in said
    assert "words of rejected: mean 2.0, median 2, 2 to 2" in said


def test_three_rows_and_no_more(tmp_path, capsys):
    said = shown(write(tmp_path, *({"text": f"word {i}"} for i in range(5))), capsys)
    assert "'word 2'" in said and "'word 3'" not in said
    assert "corpus (text): for rlhf-pg finetune" in said


def test_tokens_are_those_of_the_model(tmp_path, base, capsys):
    said = shown(write(tmp_path, {"prompt": "the film ."}), capsys, "--model", base)
    assert "tokens of prompt: mean 3.0" in said and "rlhf-pg train" in said


def test_columns_that_suit_nothing_are_said_to(tmp_path, capsys):
    said = shown(write(tmp_path, {"question": "why ?"}), capsys)
    assert "suits no command" in said and "question: 'why ?'" in said


def test_messages_are_shown_though_no_template_is_at_hand(tmp_path, capsys):
    said = shown(write(tmp_path, {"messages": [{"role": "user", "content": "hi"}]}), capsys)
    assert "lists of messages" in said and "'role': 'user'" in said


def test_texts_from_data_are_no_markup(tmp_path, capsys):
    assert "[bold]x[/bold]" in shown(write(tmp_path, {"text": "[bold]x[/bold]"}), capsys)


def test_film_notes_show_all_three_of_their_parts(capsys):
    said = shown("film-notes", capsys, "--split", "test")
    for kind in ("corpus", "prompts", "preferences"):
        assert f"film-notes, {kind}: " in said


@pytest.mark.parametrize("arguments", [["data"], ["data", "sow"]])
def test_half_a_command_is_told_the_whole(arguments, capsys):
    assert main(arguments) == 2
    assert "did you mean 'data show'" in capsys.readouterr().err
