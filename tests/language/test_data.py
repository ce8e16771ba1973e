"""Rows of text from every kind of source, what is said of a wrong one, and batches of prompts."""

import gzip
import json

import pytest

from rlhf_pg.language import data
from rlhf_pg.language.data import PromptBatches, check_prompt_lengths, hold_out, read, spread
from support.language import write_rows

ROWS = [{"text": "one two"}, {"text": "three , four"}]
PAIRS = [
    {"prompt": "a b", "chosen": " c", "rejected": " d", "chosen_finished": False},
    {"prompt": "e", "chosen": " f", "rejected": " g", "chosen_finished": True},
]


def write(path, rows=ROWS):
    """Rows in the format that the file's name says."""
    import pyarrow
    import pyarrow.parquet

    match path.name.split(".", 1)[1]:
        case "jsonl":
            write_rows(path, rows)
        case "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
        case "json":
            path.write_text(json.dumps(rows))
        case "csv":
            quoted = ["text", *(f'"{row["text"]}"' for row in rows)]
            path.write_text("\n".join(quoted) + "\n")
        case "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case "txt":
            path.write_text("\n".join(row["text"] for row in rows) + "\n")
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "txt"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert read(write(tmp_path / f"rows.{suffix}"), "corpus") == {
        "text": ["one two", "three , four"]
    }


def test_a_folder_is_all_its_files_of_data(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "a.jsonl")
    write(folder / "b.jsonl", [{"text": "five"}])
    (folder / "README.md").write_text("about")
    assert read(str(folder), "corpus")["text"] == ["one two", "three , four", "five"]
    write(folder / "c.csv")
    with pytest.raises(ValueError, match="holds files of several formats"):
        read(str(folder), "corpus")


def test_what_datasets_saved_is_read(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "saved"))
    assert read(str(tmp_path / "saved"), "corpus")["text"] == ["one two", "three , four"]
    test = datasets.Dataset.from_list([{"text": "six"}])
    datasets.DatasetDict({"train": rows, "test": test}).save_to_disk(str(tmp_path / "both"))
    assert len(read(str(tmp_path / "both"), "corpus")["text"]) == 2
    assert read(str(tmp_path / "both"), "corpus", "test")["text"] == ["six"]


def test_a_change_of_the_file_is_seen(tmp_path):
    path = tmp_path / "rows.jsonl"
    read(write(path), "corpus")
    assert read(write(path, [{"text": "new"}]), "corpus")["text"] == ["new"]


def test_blank_lines_of_a_txt_are_no_rows(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("one\n\n  \ntwo\n\n")
    assert read(str(path), "corpus")["text"] == ["one", "two"]


def test_prompt_and_completion_make_a_text(tmp_path):
    rows = [{"prompt": "a b", "completion": " c"}]
    assert read(write(tmp_path / "rows.jsonl", rows), "corpus") == {"text": ["a b c"]}


def test_prompts_keep_the_columns_beside_them(tmp_path):
    rows = [{"prompt": "1 + 1 =", "answer": 2}, {"prompt": "2 + 2 =", "answer": 4}]
    path = write(tmp_path / "rows.jsonl", rows)
    assert read(path, "prompts") == {"prompt": ["1 + 1 =", "2 + 2 ="], "answer": [2, 4]}


def test_preferences_keep_the_columns_beside_them(tmp_path):
    rows = read(write(tmp_path / "rows.jsonl", PAIRS), "preferences")
    assert rows["chosen"] == [" c", " f"] and rows["chosen_finished"] == [False, True]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("a b c", "a b d", "a b"),
        ("a b cat", "a b car", "a b"),
        ("a b", "a b c", "a"),
        ("x", "y", ""),
        ("same", "same", ""),
    ],
)
def test_an_implicit_prompt_is_the_common_words(tmp_path, chosen, rejected, prompt):
    rows = [{"chosen": chosen, "rejected": rejected}]
    found = read(write(tmp_path / "rows.jsonl", rows), "preferences")
    assert found["prompt"] == [prompt]
    assert prompt + found["chosen"][0] == chosen and prompt + found["rejected"][0] == rejected


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("corpus", "'text' or 'prompt' + 'completion' or 'messages'"),
        ("prompts", "'prompt' or 'chosen' + 'rejected' or 'messages'"),
        (
            "preferences",
            "'prompt' + 'chosen' + 'rejected' or 'chosen' + 'rejected' or 'prompt' + 'completion' "
            "+ 'label'",
        ),
    ],
)
def test_wrong_columns_are_named_with_those_wanted(tmp_path, kind, wanted):
    path = write(tmp_path / "rows.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(ValueError) as error:
        read(path, kind)
    assert str(error.value) == (
        f"{path} has columns 'question', 'answer'; {kind} need {wanted}. "
        f"Say which is which: --columns {'text' if kind == 'corpus' else 'prompt'}=question"
    )


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([{"text": "a"}, {"text": None}], "corpus", "rows.jsonl, line 2: 'text' is missing"),
        ([{"text": "a"}, {"text": " "}], "corpus", "line 2: 'text' is empty"),
        ([{"prompt": "a"}, {"prompt": ""}], "prompts", "line 2: 'prompt' is empty"),
        ([{"prompt": 7}], "prompts", "line 1: 'prompt' is int, not text"),
        ([{"prompt": "a", "completion": None}], "corpus", "'completion' is missing"),
        ([{"prompt": "", "completion": ""}], "corpus", "line 1: 'text' is empty"),
        ([{"chosen": "a", "rejected": None}], "preferences", "'rejected' is missing"),
    ],
)
def test_rows_that_are_not_text_are_named(tmp_path, rows, kind, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "rows.jsonl", rows), kind)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            '{"text": "x"}\n\n\n{"text": 7}\n',
            "a.jsonl, line 4: 'text' is int, but str before",
        ),
        ("a.csv", 'text,n\n"x\ny",1\n\n"z",2\n" ",3\n', "a.csv, line 6: 'text' is empty"),
        ("a.jsonl", '\n{"text": "x"}\n\n{"text": null}\n', "a.jsonl, line 4: 'text' is missing"),
        ("a.json", '[\n{"text": "x"},\n{"text": ""}\n]', "a.json, row 2: 'text' is empty"),
        ("a.jsonl", '{"text": "x"}\n\n{"text": \n', "a.jsonl, line 3 is no JSON"),
        ("a.jsonl", '{"text": "x"}\n[1]\n', "a.jsonl, line 2 is no JSON object"),
    ],
)
def test_errors_count_lines_as_editors_do(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=says):
        read(str(tmp_path / name), "corpus")


def test_errors_in_a_folder_name_the_file(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "a.jsonl")
    write(folder / "b.jsonl", [{"text": "five"}, {"text": ""}])
    with pytest.raises(ValueError, match="b.jsonl, line 2: 'text' is empty"):
        read(str(folder), "corpus")


def test_columns_may_have_other_names(tmp_path):
    rows = [{"input": "a b", "good": " c", "bad": " d", "chosen": "x", "n": 1}]
    path = write(tmp_path / "rows.jsonl", rows)
    names = "prompt=input, chosen=good,rejected=bad"
    assert read(path, "preferences", columns=names) == {
        "prompt": ["a b"], "chosen": [" c"], "rejected": [" d"], "n": [1],
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"has no column 'god', but 'input', 'good'"):
        read(path, "preferences", columns="chosen=god")
    with pytest.raises(ValueError, match="must be like prompt=question,chosen=better"):
        read(path, "preferences", columns="chosen")


def test_the_lines_of_a_txt_file_are_prompts_and_a_text_column_is_not(tmp_path):
    path = write(tmp_path / "rows.txt")
    assert read(path, "prompts") == {"prompt": ["one two", "three , four"]}
    with pytest.raises(ValueError, match="prompts need"):
        read(write(tmp_path / "rows.jsonl"), "prompts")


def test_pairs_give_prompts_cut_at_the_last_answer(tmp_path):
    start = "\n\nHuman: a ?\n\nAssistant: b .\n\nHuman: c ?\n\nAssistant:"
    rows = [{"chosen": start + " it is d", "rejected": start + " it is e"}]
    path = write(tmp_path / "rows.jsonl", rows)
    for kind in ("prompts", "preferences"):
        found = read(path, kind)
        assert found["prompt"] == [start] and found["chosen"] == [" it is d"]


def labelled(*rows):
    names = ("prompt", "completion", "label")
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_labelled_completions_are_paired_within_their_prompts_first(tmp_path):
    rows = labelled(
        ("a", " b", True), ("a", " c", False), ("a", " d", False),
        ("e", " f", True), ("g", " h", False), ("i", " j", 0),
    )  # fmt: skip
    found = read(write(tmp_path / "rows.jsonl", rows), "preferences")
    pairs = set(zip(found["prompt"], found["chosen"], found["rejected"], strict=True))
    assert pairs == {
        ("a", " b", " c"), ("a", " b", " d"), ("", "e f", "g h"), ("", "e f", "i j"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "says"), [((1, 1), "every label is True"), ((1, 2), "line 2: 'label' is 2")]
)
def test_labels_that_cannot_be_paired_are_refused(tmp_path, labels, says):
    rows = labelled(*(("a", f" {i}", label) for i, label in enumerate(labels)))
    with pytest.raises(ValueError, match=says):
        read(write(tmp_path / "rows.jsonl", rows), "preferences")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.txt", "rows.csv"])
def test_an_empty_file_holds_no_rows(tmp_path, name):
    for content in {"rows.csv": ["", "text\n"]}.get(name, [""]):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name} holds no rows"):
            read(str(tmp_path / name), "corpus")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_broken_file_is_named_in_one_line_and_nothing_else_is_printed(tmp_path, name, capfd):
    (tmp_path / name).write_text("{no")
    with pytest.raises(ValueError, match=f"cannot read .*{name}") as error:
        read(str(tmp_path / name), "corpus")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    for source in ("nowhere.jsonl", "./nowhere", "/nowhere"):
        with pytest.raises(ValueError, match=f"no file at {source}"):
            read(source, "corpus")
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(ValueError, match="no file of a known format; use one of jsonl, json"):
        read(str(tmp_path / "rows.xlsx"), "corpus")


def test_a_hub_that_does_not_answer_is_reported_at_once(no_network):
    with pytest.raises(ValueError, match="'someone/data' is no file or folder here, and the Hug"):
        read("someone/data", "corpus")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["corpus", "prompts", "preferences"])
def test_film_notes_are_there(kind, split):
    rows = read(data.FILM_NOTES, kind, split)
    assert len(next(iter(rows.values()))) > 50
    assert "/film_notes/" in data.film_notes(kind, split).replace("\\", "/")


def test_film_notes_test_prompts_are_not_trained_on():
    train, test = (set(read(data.FILM_NOTES, "prompts", s)["prompt"]) for s in ("train", "test"))
    assert not train & test


def test_holding_out_splits_rows_and_loses_none():
    rows = {"text": [str(i) for i in range(100)], "n": list(range(100))}
    train, test = hold_out(rows)
    assert train["text"] + test["text"] == rows["text"] and len(test["n"]) == 5
    assert len(hold_out(rows, most=2)[1]["text"]) == 2
    with pytest.raises(ValueError, match="19 rows are too few to hold some out"):
        hold_out({"text": ["a"] * 19})


# Batches of prompts


def batches(count, rank=0, processes=1, seed=0):
    rows = {"prompt": [f"p{i}" for i in range(10)], "answer": list(range(10))}
    stream = PromptBatches(rows, 8, 2, seed, rank, processes)
    return [next(stream) for _ in range(count)]


def test_every_prompt_is_used_before_any_is_used_again():
    used = [p for batch in batches(5) for p in batch["prompt"][::2]]
    assert len(used) == 20 and len(set(used[:10])) == len(set(used[10:])) == 10
    assert used[:10] != used[10:]


def test_the_order_of_prompts_is_that_of_the_seed():
    assert batches(3) == batches(3) != batches(3, seed=1)


def test_samples_of_a_prompt_are_neighbours_and_keep_their_columns():
    for batch in batches(3):
        assert len(batch["prompt"]) == 8 and batch["prompt"][::2] == batch["prompt"][1::2]
        assert batch["prompt"] == [f"p{answer}" for answer in batch["answer"]]


def test_processes_share_a_batch_and_no_prompt_twice():
    whole = batches(5)
    parts = [batches(5, rank, 2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert first["prompt"] + second["prompt"] == batch["prompt"]
        assert len(first["prompt"]) == len(second["prompt"]) == 4


def test_batches_continue_where_their_state_was_taken():
    rows = {"prompt": [f"p{i}" for i in range(10)]}
    stream, again = (PromptBatches(rows, 8, 2, seed=3) for _ in range(2))
    for _ in range(4):  # into the second pass
        next(stream)
    state = stream.state_dict()
    expected = [next(stream) for _ in range(6)]
    for queue in (state["queue"], state["queue"].tolist()):  # as older checkpoints have it
        again.load_state_dict(state | {"queue": queue})
        assert [next(again) for _ in range(6)] == expected


def test_prompts_are_spread_over_the_data():
    rows = {"prompt": list("abcdefghij"), "x": list(range(10))}
    assert spread(rows, 3) == {"prompt": ["a", "d", "g"], "x": [0, 3, 6]}
    assert spread(rows, 2, samples_per_prompt=2)["x"] == [0, 0, 5, 5]
    assert spread(rows, 99) == rows


def test_prompts_that_just_fit_are_accepted(tokenizer, llama):
    check_prompt_lengths(llama, tokenizer, ["the film is"], 45)
    with pytest.raises(ValueError, match="prompt 0 has 3 tokens"):
        check_prompt_lengths(llama, tokenizer, ["the film is"], 46)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        check_prompt_lengths(llama, tokenizer, ["the", ""], 4)


def test_prompts_are_counted_in_parts(tokenizer, llama, monkeypatch):
    monkeypatch.setattr(data, "PART", 2)
    with pytest.raises(ValueError, match="prompt 4 has 3 tokens"):
        check_prompt_lengths(llama, tokenizer, ["the", "the", "the film", "the", "the film is"], 46)
