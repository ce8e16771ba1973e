"""Records of tokens, checked against plain calls of the model, one text at a time."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.losses import ppo_clip_loss
from rlhf_pg.core.returns import gae
from rlhf_pg.language import models, token_records
from rlhf_pg.language.config import preset
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import language_rollout, reference_logprobs, score
from rlhf_pg.language.train import train
from rlhf_pg.runs import EPISODE, TOKEN, read_jsonl
from support.language import (
    PROMPTS,
    TEXTS,
    alone,
    count_good,
    draw,
    tiny_lm,
    with_values,
    write_rows,
)

KL_COEF, LEARNER = 0.3, LearnerConfig(gamma=0.9, lam=0.8, clip=0.2, whiten_advantages=True)


PPO = LearnerConfig(clip=0.2)


@pytest.fixture
def policy(lm):
    return with_values(LanguagePolicy(lm, temperature=0.7))


@pytest.fixture
def reference(tokenizer):
    return LanguagePolicy(tiny_lm("gpt2", tokenizer, seed=5), 0.7, "none")


@pytest.fixture
def recorded(policy, reference, tokenizer):
    """Completions, their rollout and their records; scores are clipped to 1."""
    done = draw(policy, tokenizer, steps=10)
    reward = lambda completions, **_: [x - 0.5 for x in count_good(completions)]  # noqa: E731
    gold = lambda completions, **_: [2.0] * len(completions)  # noqa: E731
    scores = score(reward, gold, done, {}, score_clip=1.0, missing_eos_penalty=1.0)
    refs = reference_logprobs(reference, done)
    rollout = language_rollout(done, scores.shaped, refs, KL_COEF)
    records = token_records.episodes(
        policy, tokenizer, done, scores, refs, rollout, LEARNER, KL_COEF, iteration=7
    )
    return done, rollout, records


def column(record, name):
    return torch.tensor([token[name] for token in record["tokens"]])


def test_each_number_is_what_the_model_says_of_the_text_alone(
    policy, reference, recorded, tokenizer
):
    done, _, records = recorded
    assert len({len(record["tokens"]) for record in records}) > 1  # of unequal lengths
    for row, record in enumerate(records):
        logp, ids, values = alone(policy, done, row)
        ref = alone(reference, done, row)[0]
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
                tokenizer.decode([i]) for i in likeliest.tolist()
            ]
            if token["id"] in likeliest.tolist():  # written the same in both places
                place = likeliest.tolist().index(token["id"])
                assert token["top"][place][0] == token["token"]
            assert [p for _, p in token["top"]] == pytest.approx(
                probs[likeliest].tolist(), abs=1e-4
            )


def test_the_equations_hold_between_the_columns_of_a_record(recorded):
    _, _, records = recorded
    for record in records:
        last = torch.zeros(len(record["tokens"]))
        last[-1] = 1.0
        shaped = min(max(record["score"], -1.0), 1.0) - (0.0 if record["finished"] else 1.0)
        reward, value, following = (column(record, x) for x in ("reward", "value", "next_value"))
        close = dict(atol=1e-5, rtol=0)
        torch.testing.assert_close(column(record, "score"), last * shaped, **close)
        torch.testing.assert_close(reward, last * shaped - 0.3 * column(record, "kl"), **close)
        delta = reward + 0.9 * following - value
        torch.testing.assert_close(column(record, "delta"), delta, **close)
        expected = gae(reward[None], value[None], following[None], last[None], 0.9, 0.8)[0]
        torch.testing.assert_close(column(record, "advantage"), expected, **close)
        assert record["gold"] == 2.0 and record["iteration"] == 7
        assert record["kl_coef"] == 0.3 and record["clip"] == 0.2


def test_every_key_is_documented_and_the_record_is_json(policy, recorded):
    done, rollout, records = recorded
    for record in token_records.after_update(records, done, rollout, policy, PPO):
        assert set(record) == set(EPISODE)
        assert set(record["tokens"][0]) <= set(TOKEN)
        assert json.loads(json.dumps(record)) == record


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_the_pieces_of_a_completion_make_its_text(kind):
    tokenizer = models.train_tokenizer(TEXTS, kind, 400)
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.02), critic="none")
    done = draw(policy, tokenizer, steps=8)
    for row, text in enumerate(done.texts):
        ids = done.ids[row][done.mask[row]].tolist()
        alternatives = [[i, 3, 4] for i in ids]
        rows = token_records.pieces(tokenizer, done, row, alternatives)
        pieces = [first for first, *_ in rows]
        assert len(pieces) == len(ids) and pieces == [again for _, again, *_ in rows]
        words = [p for p, i in zip(pieces, ids, strict=True) if i not in tokenizer.all_special_ids]
        if "�" not in text:  # a character cut in the middle
            assert "".join(words).replace("�", "") == text
        if done.finished[row]:
            assert pieces[-1] == "<eos>"


def test_the_ratio_is_of_the_policy_after_the_update(policy, recorded):
    done, rollout, records = recorded
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    for row, record in enumerate(token_records.after_update(records, done, rollout, policy, PPO)):
        logp, ids, _ = alone(policy, done, row)
        expected = (logp.gather(1, ids[:, None])[:, 0] - column(record, "logprob")).exp()
        torch.testing.assert_close(column(record, "ratio"), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped", "options"),
    [
        (1.3, 1.0, True, {}),
        (1.3, -1.0, False, {}),
        (0.7, -1.0, True, {}),
        (0.7, 1.0, False, {}),
        (1.1, 1.0, False, {}),
        (1.3, 1.0, False, {"clip_high": 0.4}),
        (1.3, 1.0, True, {"ratio": "sequence"}),
        (4.0, -1.0, True, {"dual_clip": 3.0}),
        (4.0, 1.0, False, {"clip_weights": True}),
    ],
)
def test_a_token_is_clipped_if_it_gives_no_gradient(ratio, advantage, clipped, options):
    """Against PPO's loss itself: clipped means that its derivative is 0."""
    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    new = torch.tensor([[ratio]]).log().requires_grad_()
    ppo_clip_loss(new, old, torch.tensor([[advantage]]), mask, 0.2, **options).backward()
    assert (float(new.grad) == 0.0) is clipped
    records = [{"clip": 0.2, "tokens": [{"advantage": advantage}]}]
    done = SimpleNamespace(logprobs=old)
    rollout = SimpleNamespace(mask=torch.ones(1, 1, dtype=torch.bool))
    now = SimpleNamespace(evaluate=lambda _: SimpleNamespace(logprobs=new.detach()))
    (record,) = token_records.after_update(
        records, done, rollout, now, LearnerConfig(clip=0.2, **options)
    )
    assert record["tokens"][0].get("clipped", False) is clipped
    assert record["tokens"][0]["ratio"] == pytest.approx(ratio)


def small_run(base, tmp_path, name, reward=count_good, **changes):
    path = write_rows(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    config = preset(changes.pop("algorithm", "ppo"))
    config.model, config.data, config.output = base, path, str(tmp_path / name)
    config.iterations, config.rows, config.max_new_tokens, config.device = 3, 8, 6, "cpu"
    config.samples_every, config.samples_kept = 2, 3
    for key, value in changes.items():
        setattr(config, key, value)
    return train(config, reward)


def test_a_run_records_the_same_prompts_all_through(base, tmp_path):
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
        assert sum(r["tokens"][0]["advantage"] for r in group) == pytest.approx(0, abs=1e-5)


def test_recording_changes_nothing(base, tmp_path):
    """The run with records is the run without, bit for bit, running moments included."""

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

    with_records, without = numbers("a", 3), numbers("b", 0)
    assert with_records.lines == without.lines and with_records.weights == without.weights
    assert not (without.path / "tokens.jsonl").exists()


def test_rewards_are_whitened_as_the_critic_saw_them(policy, reference, tokenizer):
    """Beside a critic of whitened rewards stand whitened rewards, and TD errors of both."""
    done = draw(policy, tokenizer, steps=10)
    scores = score(lambda completions, **_: count_good(completions), None, done, {})
    refs = reference_logprobs(reference, done)
    rollout = language_rollout(done, scores.shaped, refs, KL_COEF)
    whitening = replace(LEARNER, whiten_rewards=True)
    records = token_records.episodes(
        policy, tokenizer, done, scores, refs, rollout, whitening, KL_COEF
    )
    rewards = torch.cat([column(record, "reward") for record in records])
    raw = rollout.rewards[rollout.mask.bool()]
    torch.testing.assert_close(rewards.var(correction=0), torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(rewards.mean(), raw.mean(), atol=1e-4, rtol=0)
    assert records[0]["reward_scale"] == pytest.approx(1 / float(raw.std(correction=0)), rel=1e-3)
    for record in records:
        gamma, following = record["gamma"], column(record, "next_value")
        delta = column(record, "reward") + gamma * following - column(record, "value")
        torch.testing.assert_close(column(record, "delta"), delta, atol=1e-5, rtol=0)
