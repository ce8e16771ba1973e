"""Records of tokens, held against plain calls of the model, one text at a time."""

import json

import pytest
import torch
from rlhf_pg.language.answers import Task
from rlhf_pg.language.settings import TrainConfig, preset
from rlhf_pg.language.training import train

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.returns import gae
from rlhf_pg.language import models, tokens
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.runs import EPISODE, TOKEN, read_jsonl

from .conftest import PROMPTS, TEXTS, alone, tiny_lm, with_values


def likes_good(completions, **_):
    return [text.split().count("good") - 0.5 for text in completions]


@pytest.fixture
def policy(lm):
    return with_values(LanguagePolicy(lm, temperature=0.7))


@pytest.fixture
def task(tokenizer, llama):
    reference = LanguagePolicy(tiny_lm("gpt2", tokenizer, seed=5), 0.7, "none")
    learner = LearnerConfig(gamma=0.9, lam=0.8, clip=0.2, whiten_advantages=True)
    config = TrainConfig(max_new_tokens=10, temperature=0.7, score_clip=1.0, learner=learner)
    gold = lambda completions, **_: [2.0] * len(completions)  # noqa: E731
    return Task(config, tokenizer, reference, likes_good, gold)


def looked_at(policy, task, kl_coef=0.3):
    generator = torch.Generator().manual_seed(0)
    answers = task.answer(policy, {"prompt": PROMPTS}, generator, kl_coef)
    learner = task.config.learner
    return answers, tokens.episodes(policy, task.tokenizer, answers, learner, iteration=7)


def column(record, name):
    return torch.tensor([token[name] for token in record["tokens"]])


def test_each_number_is_what_the_model_says_of_the_text_alone(policy, task):
    answers, records = looked_at(policy, task)
    assert len({len(record["tokens"]) for record in records}) > 1  # of unequal lengths
    for row, record in enumerate(records):
        logp, ids, values = alone(policy, answers.done, row)
        ref = alone(task.reference, answers.done, row)[0]
        chosen, ref_chosen = (x.gather(1, ids[:, None])[:, 0] for x in (logp, ref))
        expected = {
            "logprob": chosen,
            "ref_logprob": ref_chosen,
            "kl": chosen - ref_chosen,
            "entropy": -(logp.exp() * logp).sum(1),
            "value": values,
            "next_value": torch.cat([values[1:], torch.zeros(1)]),
        }
        for name, x in expected.items():
            torch.testing.assert_close(column(record, name), x, atol=2e-5, rtol=0, msg=name)
        assert [token["id"] for token in record["tokens"]] == ids.tolist()
        for token, probs in zip(record["tokens"], logp.exp(), strict=True):
            likeliest = probs.argsort(descending=True)[:5]
            assert [text.strip() for text, _ in token["top"]] == [
                task.tokenizer.decode([i]) for i in likeliest.tolist()
            ]
            if token["id"] in likeliest.tolist():  # written alike in both places
                place = likeliest.tolist().index(token["id"])
                assert token["top"][place][0] == token["token"]
            assert [p for _, p in token["top"]] == pytest.approx(
                probs[likeliest].tolist(), abs=1e-4
            )


def test_the_equations_hold_between_the_columns_of_a_record(policy, task):
    _, records = looked_at(policy, task)
    for record in records:
        last = torch.zeros(len(record["tokens"]))
        last[-1] = 1.0
        paid = min(max(record["score"], -1.0), 1.0) - (0.0 if record["finished"] else 1.0)
        reward, value, following = (column(record, x) for x in ("reward", "value", "next_value"))
        close = dict(atol=1e-5, rtol=0)
        torch.testing.assert_close(column(record, "score"), last * paid, **close)
        torch.testing.assert_close(reward, last * paid - 0.3 * column(record, "kl"), **close)
        delta = reward + 0.9 * following - value
        torch.testing.assert_close(column(record, "delta"), delta, **close)
        expected = gae(reward[None], value[None], following[None], last[None], 0.9, 0.8)[0]
        torch.testing.assert_close(column(record, "advantage"), expected, **close)
        assert record["gold"] == 2.0 and record["iteration"] == 7
        assert record["kl_coef"] == 0.3 and record["clip"] == 0.2


def test_every_key_is_documented_and_the_record_is_json(policy, task):
    answers, records = looked_at(policy, task)
    for record in tokens.after_update(records, answers, policy):
        assert set(record) == set(EPISODE)
        assert set(record["tokens"][0]) <= set(TOKEN)
        assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_the_pieces_of_a_completion_make_its_text(kind):
    tokenizer = models.train_tokenizer(TEXTS, kind, 400)
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.02), critic="none")
    config = TrainConfig(max_new_tokens=8)
    task = Task(config, tokenizer, policy, likes_good)
    answers = task.answer(policy, {"prompt": PROMPTS}, torch.Generator().manual_seed(0), 0.0)
    for row, text in enumerate(answers.done.texts):
        ids = answers.done.ids[row][answers.done.mask[row]].tolist()
        alternatives = [[i, 3, 4] for i in ids]
        rows = tokens.pieces(tokenizer, answers, row, alternatives)
        said = [first for first, *_ in rows]
        assert len(said) == len(ids) and said == [again for _, again, *_ in rows]
        words = [p for p, i in zip(said, ids, strict=True) if i not in tokenizer.all_special_ids]
        if "�" not in text:  # a character cut in the middle
            assert "".join(words) == text
        if answers.done.finished[row]:
            assert said[-1] == "<eos>"


def test_the_ratio_is_of_the_policy_after_the_update(policy, task):
    answers, records = looked_at(policy, task)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    for row, record in enumerate(tokens.after_update(records, answers, policy)):
        logp, ids, _ = alone(policy, answers.done, row)
        expected = (logp.gather(1, ids[:, None])[:, 0] - column(record, "logprob")).exp()
        torch.testing.assert_close(column(record, "ratio"), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [(1.3, 1.0, True), (1.3, -1.0, False), (0.7, -1.0, True), (0.7, 1.0, False), (1.1, 1.0, False)],
)
def test_a_token_is_clipped_where_its_gradient_is_gone(ratio, advantage, clipped):
    """Against PPO's loss itself: clipped means that its derivative is 0."""
    from types import SimpleNamespace

    from rlhf_pg.core.losses import ppo_clip_loss

    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    new = torch.tensor([[ratio]]).log().requires_grad_()
    ppo_clip_loss(new, old, torch.tensor([[advantage]]), mask, 0.2).backward()
    assert (float(new.grad) == 0.0) is clipped
    records = [{"clip": 0.2, "tokens": [{"advantage": advantage}]}]
    done = SimpleNamespace(logprobs=old)
    answers = SimpleNamespace(rollout=None, done=done)
    now = SimpleNamespace(evaluate=lambda _: SimpleNamespace(logprobs=new.detach()))
    (record,) = tokens.after_update(records, answers, now)
    assert record["tokens"][0]["clipped"] is clipped
    assert record["tokens"][0]["ratio"] == pytest.approx(ratio)


def small_run(base, tmp_path, name, reward=likes_good, **changes):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    config = preset(changes.pop("algorithm", "ppo"))
    config.model, config.data, config.output = base, str(path), str(tmp_path / name)
    config.iterations, config.rows, config.max_new_tokens, config.device = 3, 8, 6, "cpu"
    config.samples_every, config.samples_kept = 2, 3
    for key, value in changes.items():
        setattr(config, key, value)
    return train(config, reward)


def test_a_run_keeps_the_same_prompts_all_through(base, tmp_path):
    run = small_run(base, tmp_path, "run")
    records = read_jsonl(run.path / "tokens.jsonl")
    assert [r["iteration"] for r in records] == [1] * 3 + [2] * 3
    assert [r["prompt"] for r in records[:3]] == [r["prompt"] for r in records[3:]]
    assert len({r["prompt"] for r in records}) == 3
    assert all(abs(t["kl"]) < 1e-5 for r in records[:3] for t in r["tokens"])  # still the base
    assert any(abs(t["kl"]) > 1e-4 for r in records[3:] for t in r["tokens"])
    assert any(abs(t["ratio"] - 1) > 1e-3 for r in records[:3] for t in r["tokens"])


def test_groups_are_kept_whole(base, tmp_path):
    run = small_run(base, tmp_path, "run", algorithm="rloo", samples_kept=8)
    first = [r for r in read_jsonl(run.path / "tokens.jsonl") if r["iteration"] == 1]
    prompts = [r["prompt"] for r in first]
    assert len(prompts) == 8 and prompts == [p for p in (prompts[0], prompts[4]) for _ in range(4)]
    for group in (first[:4], first[4:]):  # leave-one-out advantages of a group add up to 0
        # The score of a completion here is what it is paid less the KL, and K/(K-1) of the mean.
        assert sum(r["tokens"][0]["advantage"] for r in group) == pytest.approx(0, abs=1e-5)


def test_looking_changes_nothing(base, tmp_path):
    """The run that is watched is the run that is not, bit for bit, running moments included."""
    from types import SimpleNamespace

    class Moments:
        def __init__(self):
            self.seen = 0

        def __call__(self, completions, **_):
            self.seen += len(completions)
            return [float(self.seen)] * len(completions)

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    def numbers(name, kept):
        run = small_run(base, tmp_path, name, reward=Moments(), samples_kept=kept)
        lines = read_jsonl(run.path / "metrics.jsonl")
        for line in lines:
            del line["seconds"], line["tokens_per_second"]
        weights = (run.path / "policy" / "model.safetensors").read_bytes()
        return SimpleNamespace(lines=lines, weights=weights, path=run.path)

    watched, unwatched = numbers("a", 3), numbers("b", 0)
    assert watched.lines == unwatched.lines and watched.weights == unwatched.weights
    assert not (unwatched.path / "tokens.jsonl").exists()
