"""Made-up runs, as large and as uneven as real ones: film notes, and CartPole."""

import math
import random
from types import SimpleNamespace

import pytest
import torch

from rlhf_pg.core.returns import gae
from rlhf_pg.runs import METRICS

PROMPTS = (
    "review of a western , on the music :",
    "a thriller : how is the plot ?",
    "notes on a mystery , above all the costumes :",
    "a drama : how are the songs ?",
)
# Sentences, and what a gold scorer would think of the words that carry them.
GOOD = (
    "i loved the music .",
    "the acting is really moving .",
    "the costumes are bright and elegant .",
    "do not miss it .",
    "we left with a smile .",
    "the pace is not slow at all .",
)
PLAIN = (
    "the film is set in a big city .",
    "it follows a young doctor .",
    "it was shot in winter .",
)
BAD = (
    "the plot is very weak .",
    "the songs are dull and clumsy .",
    "i would not see it again .",
    "the cast is not really lively .",
)
WORTH = {"loved": 0.9, "moving": 0.7, "elegant": 0.6, "bright": 0.3, "smile": 0.5, "miss": 0.5}
WORTH |= {"weak": -0.8, "dull": -0.6, "clumsy": -0.5, "again": -0.7, "slow": 0.4, "lively": -0.5}


def language_run(
    iterations=60, every=10, kl_in="reward", baseline="critic", final_rows=8, clip=0.2
):
    """What `inspect` hands to the page, of a PPO run on film notes."""
    chance = random.Random(7)
    records = []
    for iteration in [1, *range(every, iterations + 1, every)]:
        for prompt in PROMPTS:
            skill = iteration / iterations
            records.append(_notes(chance, prompt, iteration, skill, kl_in, baseline, clip))
    for row in range(final_rows):
        prompt = PROMPTS[row % len(PROMPTS)]
        records.append(_notes(chance, prompt, None, 1.0, kl_in, baseline, clip))
    return {
        "title": "ppo on film-notes",
        "kind": "language",
        "config": {
            "algorithm": "ppo",
            "data": "film-notes",
            "kl_coef": 0.2,
            "gold": None,
            "learner": {"baseline": baseline, "gamma": 1.0, "lam": 0.95, "clip": clip},
        },
        "metrics": [_line(chance, i, iterations) for i in range(1, iterations + 1)],
        "metrics_help": METRICS,
        "episodes": records,
        "agreement": agreement(records),
        "estimators": [estimators("enumerated task", 0.0), estimators("film-notes", 0.06, 300)],
    }


def control_run(steps=200, recorded=(1, 20, 40)):
    """The same of a PPO run on CartPole: episodes of up to `steps` steps, and no reference."""
    chance = random.Random(11)
    records = [_balancing(chance, i, min(steps, 20 + 6 * i)) for i in recorded]
    records += [_balancing(chance, None, steps, seed) for seed in (0, 1)]
    lines = []
    for i in range(1, 41):
        score = 20 + 4.4 * i + chance.gauss(0, 8)
        lines.append({"iteration": i, "seconds": 0.03 * i, "steps": 1024 * i, "score": score,
                      "length": score, "entropy": 0.69 - 0.004 * i, "policy_loss": -0.004,
                      "value_loss": 33 / i, "learning_rate": 0.005})  # fmt: skip
        if i % 10 == 0:
            lines[-1] |= {"eval_score": score + 15, "eval_score_std": 9.0}
    return {
        "title": "ppo on CartPole-v1",
        "kind": "control",
        "config": {"env": "CartPole-v1", "algorithm": "ppo", "learner": {"gamma": 0.98}},
        "metrics": lines,
        "metrics_help": METRICS,
        "episodes": records,
        "agreement": None,
        "estimators": [],
    }


def episode(tokens, rewards, values, truth=None, **about):
    """One record as runs.EPISODE says: rewards, values and the truth are lists, one for each token.

    `truth` is true values and their standard error; the KL of token t is `about["kls"][t]`.
    """
    gamma, lam, steps = about.get("gamma", 1.0), about.get("lam", 0.95), len(tokens)
    kls, coef = about.pop("kls", [0.0] * steps), about.get("kl_coef", 0.2)
    paid = [r - coef * k if about.get("kl_in", "reward") == "reward" else r
            for r, k in zip(rewards, kls, strict=True)]  # fmt: skip
    following = [*values[1:], 0.0]
    rows = [torch.tensor([x], dtype=torch.float64) for x in (paid, values, following)]
    ends = torch.tensor([[0.0] * (steps - 1) + [1.0]], dtype=torch.float64)
    advantages = gae(*rows, ends, gamma, lam)[0].tolist()
    if about.get("baseline", "critic") != "critic":
        advantages = [sum(rewards) - 0.5] * steps
    chance = random.Random(str(tokens))
    made = []
    for t, token in enumerate(tokens):
        logprob = -chance.expovariate(1.3)
        shares = sorted((chance.random() for _ in range(4)), reverse=True)
        rest = (1 - math.exp(logprob)) / (sum(shares) + 0.3)
        others = chance.sample(["film", "cast", "not", "very", "is", "quite", "lovely"], 4)
        if about.get("actions"):
            others, rest = [name for name in about["actions"] if name != token], 1.0
            shares = [1 - math.exp(logprob)]
        top = [
            [token, math.exp(logprob)],
            *([o, s * rest] for o, s in zip(others, shares, strict=False)),
        ]
        ratio = math.exp(chance.gauss(0, 0.12))
        out = ratio > 1.2 if advantages[t] > 0 else ratio < 0.8
        made.append({
            "token": token, "id": t, "logprob": logprob, "ref_logprob": logprob - kls[t],
            "entropy": abs(chance.gauss(0.8, 0.4)), "top": sorted(top, key=lambda a: -a[1]),
            "kl": kls[t], "score": rewards[t], "reward": paid[t], "value": values[t],
            "next_value": following[t], "delta": paid[t] + gamma * following[t] - values[t],
            "advantage": advantages[t], "ratio": ratio, "clipped": out,
            "true_value": None, "true_value_se": None, "true_advantage": None,
            "true_advantage_se": None,
        })  # fmt: skip
        if truth:
            true, se = truth
            made[t] |= {"true_value": true[t], "true_value_se": se,
                        "true_advantage": paid[t] + gamma * [*true, 0.0][t + 1] - true[t],
                        "true_advantage_se": se * math.sqrt(2 if t + 1 < steps else 1)}  # fmt: skip
    whole = {"iteration": 1, "prompt": "a prompt", "completion": "".join(tokens), "gold": None,
             "score": sum(rewards), "finished": True, "gamma": gamma, "lam": lam, "kl_coef": coef,
             "kl_in": "reward", "baseline": "critic", "clip": 0.2}  # fmt: skip
    about.pop("actions", None)
    return {**whole, **about, "tokens": made}


def _notes(chance, prompt, iteration, skill, kl_in, baseline, clip):
    pool = GOOD if chance.random() < 0.3 + 0.6 * skill else BAD
    sentences = [chance.choice(PLAIN if chance.random() > 0.4 + 0.5 * skill else pool)
                 for _ in range(chance.randint(2, 4))]  # fmt: skip
    tokens = [f" {word}" for word in " ".join(sentences).split()] + ["<eos>"]
    worth = [WORTH.get(token.strip(), 0.0) + chance.gauss(0, 0.03) for token in tokens]
    kls = [skill * chance.gauss(0.15, 0.35) for _ in tokens]
    score = sum(worth) + chance.gauss(0, 0.1)
    true = [0.4 + skill + sum(worth[:t]) for t in range(len(tokens))]
    values = [0.3 + 0.6 * v + chance.gauss(0, 0.15) for v in true]
    rewards = [0.0] * (len(tokens) - 1) + [score]
    return episode(
        tokens, rewards, values, (true, 0.06) if iteration is None else None,
        kls=kls, prompt=prompt, iteration=iteration, gold=score * 0.8 + chance.gauss(0, 0.3),
        kl_in=kl_in, baseline=baseline, clip=clip, finished=chance.random() < 0.9,
    )  # fmt: skip


def _balancing(chance, iteration, steps, seed=0):
    values, sway = [], 0.0
    for t in range(steps):
        sway = 0.9 * sway + chance.gauss(0, 1.2)
        values.append(min(50.0, 1.0 * (steps - t)) * 0.9 - abs(sway))
    tokens = [chance.choice(("left", "right")) for _ in range(steps)]
    about = {"gamma": 0.98, "lam": 0.97, "kl_coef": 0.0, "iteration": iteration}
    about |= {"prompt": f"CartPole-v1, seed {seed}", "completion": f"{steps} steps"}
    about |= {"actions": ("left", "right"), "finished": steps < 200}
    return episode(tokens, [1.0] * steps, values, **about)


def _line(chance, i, iterations):
    way = 1 - math.exp(-3 * i / iterations)
    line = {
        "iteration": i, "seconds": 0.41 * i, "score": -0.1 + 1.8 * way + chance.gauss(0, 0.08),
        "gold": 0.2 + 1.7 * way + chance.gauss(0, 0.12), "kl": 4.3 * way + chance.gauss(0, 0.1),
        "kl_k3": 4.2 * way + chance.gauss(0, 0.08), "length": 22 - 5 * way + chance.gauss(0, 0.4),
        "eos_rate": min(1.0, 0.96 + 0.05 * way), "score_std": 1.0 - 0.4 * way, "kl_coef": 0.2,
        "objective": -0.1 + way, "policy_loss": chance.gauss(-0.01, 0.01),
        "value_loss": 0.25 - 0.15 * way + abs(chance.gauss(0, 0.02)),
        "clip_fraction": 0.06 + abs(chance.gauss(0, 0.02)), "entropy": 1.05 - 0.35 * way,
        "explained_variance": 0.6 * way + chance.gauss(0, 0.04), "gradient_steps": 8.0,
        "grad_norm": 0.6 + abs(chance.gauss(0, 0.1)), "learning_rate": 0.0005,
        "first_ratio_drift": 2.6e-07 + chance.random() * 1e-8, "tokens_per_second": 2900 + i,
    }  # fmt: skip
    if i % 10 == 1:
        line["kl_exact"] = 4.25 * way
    return line


def agreement(records):
    """A table as `study credit` prints it, over the final episodes."""
    tokens = sum(len(e["tokens"]) for e in records if e["iteration"] is None)
    grid = [0.0, 0.5, 0.9, 0.95, 1.0]
    return {
        "continuations": 64, "completions": 8, "tokens": tokens, "exact": False, "lam": 0.95,
        "value_correlation": 0.83,
        "gae": [{"lam": x, "correlation": 0.78 - 0.3 * x * x, "corrected_correlation":
                 0.84 - 0.31 * x * x, "sign_agreement": 0.8 - 0.1 * x, "rmse": 0.2 + 0.4 * x}
                for x in grid],
        "by_position": [{"position": t, "tokens": max(1, 8 - t // 4), "rmse": 0.3 + 0.01 * t,
                         "bias": 0.05 * math.sin(t), "noise": 0.08} for t in range(22)],
    }  # fmt: skip


def estimators(task, error, draws=400):
    """One object as `study estimators` saves it: wide without a baseline, then narrower."""
    chance = random.Random(task)
    plan = [("reinforce", "reinforce", None, None, 2.4, 0.0),
            ("reward-to-go", "reward-to-go", None, None, 1.9, 0.0),
            ("batch-mean", "baseline", None, None, 1.2, 0.03),
            ("leave-one-out", "baseline", None, None, 1.25, 0.0),
            ("group", "group", None, None, 1.1, -0.22),
            ("ppo, 4 steps", "ppo", 0.95, "trained", 0.62, -0.16)]  # fmt: skip
    plan += [(f"gae({lam:g})", "gae", lam, critic, 0.25 + 0.65 * lam**2 * scale,
              -0.5 * (1 - lam) * scale)
             for critic, scale in (("trained", 1.0), ("poor", 1.6))
             for lam in (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)]  # fmt: skip
    methods = []
    for name, family, lam, critic, spread, bias in plan:
        drawn = [chance.gauss(1 + bias, spread) for _ in range(draws)]
        methods.append({
            "name": name, "family": family, "lam": lam, "critic": critic, "bias": abs(bias),
            "bias_se": error + spread / draws**0.5 * 0.1, "variance": 3 * spread**2,
            "mse": bias**2 + 3 * spread**2, "cosine": 0.999 - 0.2 * abs(bias),
            "cosine_single": 1 / math.sqrt(1 + 3 * spread**2), "snr": 1 / (3 * spread**2),
            "expected_exactly": error == 0, "projections": drawn,
        })  # fmt: skip
    how = "enumeration" if error == 0 else "a large sample"
    return {"task": task, "truth": {"how": how, "episodes": None if error == 0 else 20000,
            "norm": 0.41, "relative_error": error}, "batch": 64, "estimates": draws,
            "critic": "trained: explains 60% of the returns", "methods": methods}  # fmt: skip


HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror='window.hurt=2'>-->\u2028]]>"


def hostile_run():
    """A run whose every text tries to be markup."""
    data = language_run(iterations=20, final_rows=2)
    data["title"] = data["config"]["data"] = data["config"][HOSTILE] = HOSTILE
    data["metrics_help"] = {HOSTILE: HOSTILE}
    for i, line in enumerate(data["metrics"]):
        line[HOSTILE] = i * 1.0
    for record in data["episodes"]:
        record["prompt"] = record["completion"] = record["baseline"] = HOSTILE
        for token in record["tokens"]:
            token["token"] = HOSTILE
            token["top"] = [[HOSTILE, 0.4], ["<b>", 0.1]]
    for task in data["estimators"]:
        task["task"] = task["truth"]["how"] = HOSTILE
        task["methods"][0]["name"] = task["methods"][6]["critic"] = HOSTILE
    return data


@pytest.fixture(scope="session")
def language():
    return language_run()


@pytest.fixture(scope="session")
def control():
    return control_run()


@pytest.fixture(scope="session")
def hostile():
    return hostile_run()


@pytest.fixture(scope="session")
def made():
    """The functions above, for runs of other kinds."""
    return SimpleNamespace(
        language_run=language_run,
        control_run=control_run,
        episode=episode,
        estimators=estimators,
        HOSTILE=HOSTILE,
    )
