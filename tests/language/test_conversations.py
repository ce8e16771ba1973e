"""Messages become text through the chat template; what an answer adds to its prompt is its text."""

import pytest

from rlhf_pg.language.data import read
from rlhf_pg.language.sampling import encode
from support.language import write_rows

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def message(role, content):
    return {"role": role, "content": content}


ASK, GOOD, BAD = (
    message("user", "how ?"),
    message("assistant", "fine"),
    message("assistant", "poor"),
)


@pytest.fixture
def chatty(tokenizer):
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write(tmp_path, *rows):
    return write_rows(tmp_path / "rows.jsonl", rows)


def test_messages_are_a_text_without_their_last_eos(tmp_path, chatty):
    source = write(tmp_path, {"messages": [ASK, GOOD]}, {"messages": [ASK, GOOD, ASK, BAD]})
    assert read(source, "corpus", tokenizer=chatty)["text"] == [
        "<user> how ? <eos> <assistant> fine ",
        "<user> how ? <eos> <assistant> fine <eos> <user> how ? <eos> <assistant> poor ",
    ]


def test_a_prompt_ends_where_the_answer_begins_and_keeps_its_columns(tmp_path, chatty):
    source = write(tmp_path, {"prompt": [ASK], "answer": 4})
    assert read(source, "prompts", tokenizer=chatty) == {
        "prompt": ["<user> how ? <eos> <assistant>"],
        "answer": [4],
        "prompt_messages": [[ASK]],  # for rewards
    }


def test_a_prompt_and_its_completion_are_the_text_of_the_whole(tmp_path, chatty):
    source = write(tmp_path, {"prompt": [ASK], "completion": [GOOD]})
    whole = "<user> how ? <eos> <assistant> fine "
    assert read(source, "corpus", tokenizer=chatty)["text"] == [whole]


PAIR = {
    "prompt": ["<user> how ? <eos> <assistant>"],
    "chosen": [" fine "],
    "rejected": [" poor "],
}


def test_pairs_hold_what_each_answer_adds(tmp_path, chatty):
    source = write(tmp_path, {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]})
    assert read(source, "preferences", tokenizer=chatty) == PAIR


def test_pairs_without_a_prompt_have_one_in_their_common_messages(tmp_path, chatty):
    source = write(tmp_path, {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]})
    assert read(source, "preferences", tokenizer=chatty) == PAIR


def test_pairs_that_are_equal_keep_their_last_message_as_the_answer(tmp_path, chatty):
    source = write(tmp_path, {"chosen": [ASK, GOOD], "rejected": [ASK, GOOD]})
    pair = read(source, "preferences", tokenizer=chatty)
    assert pair["chosen"] == pair["rejected"] == [" fine "]


def test_a_bos_that_the_tokenizer_adds_is_not_written_twice(tmp_path, chatty):
    from tokenizers.processors import TemplateProcessing

    chatty.add_special_tokens({"bos_token": "<s>"})
    bos = chatty.bos_token_id
    chatty.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    chatty.chat_template = "<s>" + TEMPLATE
    (text,) = read(write(tmp_path, {"prompt": [ASK]}), "prompts", tokenizer=chatty)["prompt"]
    assert encode(chatty, [text])[0].count(bos) == 1


def test_without_a_chat_template_the_error_says_what_to_do(tmp_path, tokenizer):
    source = write(tmp_path, {"prompt": [ASK]})
    for reader in (None, tokenizer):
        with pytest.raises(ValueError, match="no chat template .* plain text"):
            read(source, "prompts", tokenizer=reader)


def test_a_template_that_does_not_continue_its_prompt_is_named(tmp_path, chatty):
    chatty.chat_template = "{{ messages | length }}"
    source = write(tmp_path, {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]})
    with pytest.raises(ValueError, match="line 1: .* does not continue its prompt"):
        read(source, "preferences", tokenizer=chatty)


def test_a_row_that_is_no_conversation_is_named(tmp_path, chatty):
    source = write(tmp_path, {"prompt": [ASK]}, {"prompt": []})
    with pytest.raises(ValueError, match="line 2: 'prompt' is no list of messages"):
        read(source, "prompts", tokenizer=chatty)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "how ?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},  # UltraFeedback
        {"prompt": "how ?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [ASK], "chosen": "fine", "rejected": "poor"},
        {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    ],
)
def test_prompts_and_answers_may_be_text_or_messages(tmp_path, chatty, row):
    assert read(write(tmp_path, row), "preferences", tokenizer=chatty) == PAIR
    prompts = read(write(tmp_path, row), "prompts", tokenizer=chatty)["prompt"]
    assert prompts == PAIR["prompt"]


def test_prompts_without_a_column_are_cut_at_the_last_answer(tmp_path, chatty):
    longer = [ASK, GOOD, message("user", "why ?")]
    rows = {"chosen": [*longer, GOOD], "rejected": [*longer, BAD]}
    prompt = "<user> how ? <eos> <assistant> fine <eos> <user> why ? <eos> <assistant>"
    for row in (rows, {"messages": [*longer, GOOD]}, {"messages": longer}):
        assert read(write(tmp_path, row), "prompts", tokenizer=chatty)["prompt"] == [prompt]


def test_labelled_messages_are_pairs(tmp_path, chatty):
    rows = [
        {"prompt": [ASK], "completion": [answer], "label": label}
        for answer, label in ((BAD, False), (GOOD, True))
    ]
    assert read(write(tmp_path, *rows), "preferences", tokenizer=chatty) == PAIR
