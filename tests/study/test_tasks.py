"""The small task: what its reward says, and that there is something to learn from it."""

import time

import pytest
import torch

from rlhf_pg.study.oracle import language_oracle
from rlhf_pg.study.tasks import opinion, small_task


@pytest.mark.parametrize(
    "text, score",
    [
        ("", 0),
        (" good", 1),
        (" bad", -1),
        (" not good", -1),
        (" not bad", 1),
        (" very good", 2),
        (" very bad", -2),
        (" not very good", -2),
        (" very not good", -2),
        (" not not good", 1),
        (" very very good", 2),
        (" not", 0),
        (" very film good", 1),
        (" not film good", 1),
        (" good bad", 0),
        (" not bad good", 2),
        (" film", 0),
    ],
)
def test_an_opinion_is_what_its_words_mean_together(text, score):
    assert opinion(completions=[text], prompts=["film"]) == [score]


def test_it_is_made_of_eight_tokens_in_under_a_second():
    small_task()  # imports
    began = time.perf_counter()
    task = small_task()
    assert time.perf_counter() - began < 1
    assert len(task.tokenizer) == 8 == task.policy.model.config.vocab_size
    assert task.tokenizer.pad_token_id != task.tokenizer.eos_token_id
    known = task.tokenizer("good bad not very film")["input_ids"]
    assert len(set(known)) == 5 and task.tokenizer.unk_token_id not in known


def test_the_same_seed_is_the_same_task_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two, other = small_task(1), small_task(1), small_task(2)
    assert torch.rand(1) == expected

    def weights(task):
        return torch.cat([p.flatten() for p in task.policy.model.parameters()])

    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("seed", range(3))
def test_tokens_matter_and_there_is_much_to_gain(seed):
    task = small_task(seed)
    answer = language_oracle(
        task.policy, task.reference, task.tokenizer, task.prompt, task.reward,
        task.max_new_tokens, kl_coef=0.5, parameters=[],
    )  # fmt: skip
    assert len(answer.probs) == 2801
    assert 0.5 < answer.kl < 5
    assert answer.entropy < 0.9 * torch.tensor(2801.0).log()
    assert answer.best_objective - answer.objective > 1
    # A step's worth differs from step to step: credit is a question here.
    assert float((answer.probs[:, None] * answer.advantages**2).sum(0).min()) > 0.02
