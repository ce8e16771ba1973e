"""What can be asked of the doctor: a run of `rlhf-pg train`, before it is begun."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf_pg.language import data, settings
from rlhf_pg.language.settings import TrainConfig

REWARD = "runs/reward"


@dataclass
class DoctorConfig:
    """Check a model, its tokenizer, the data and the reward, before training."""

    model: str = "runs/base"
    """The policy to begin with: a run, a folder, or a hub name. It is not changed."""
    reward: str | None = None
    """What is to be maximised, as `rlhf-pg train` takes it; None is runs/reward where it is there,
    and else the checks of the reward are left out. It is asked for some 360 scores."""
    data: str = data.FILM_NOTES
    """Prompts: a file, folder or hub name with a `prompt` column."""
    reference: str | None = None
    """The model to stay near; None is the policy as it begins."""
    algorithm: str = "ppo"
    """Which named algorithm will train: reinforce ... ppo, rloo or grpo."""
    iterations: int = 100
    """Rollouts of the run, to say how long it will take."""
    rows: int = 64
    """Completions in a rollout of the run; at most 64 are drawn for the checks."""
    samples_per_prompt: int | None = None
    """Completions of each prompt in the run; None is the algorithm's own."""
    max_new_tokens: int = 48
    """Longest completion, EOS included."""
    temperature: float = 1.0
    """Of sampling, and so of scoring; usually 0.7 to 1."""
    kl_coef: float = 0.2
    """Weight of KL(policy || reference), usually 0.02 to 0.2."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a completion cut at the length limit, usually 0 to 1."""
    lora_rank: int | None = None
    """Train LoRA adapters of this rank in place of all weights (extra: peft)."""
    bf16: bool = False
    """Compute in bfloat16; sampling then differs from scoring in the third digit."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one; "cpu" does not."""
    seed: int = 0
    """Of sampling."""
    explain: bool = False
    """Say under each check what it holds to."""
    output: str | None = None
    """A .json file, or a folder for doctor.json; None writes nothing."""


def train_config(config: DoctorConfig) -> TrainConfig:
    """The run that is to follow; raises ValueError where its options do not suit each other."""
    run = settings.preset(config.algorithm)
    run.samples_per_prompt = config.samples_per_prompt or run.samples_per_prompt
    shared = (
        "model", "data", "reference", "iterations", "rows", "max_new_tokens", "temperature",
        "kl_coef", "missing_eos_penalty", "lora_rank", "bf16", "device", "seed",
    )  # fmt: skip
    for name in shared:
        setattr(run, name, getattr(config, name))
    run.reward = config.reward or REWARD
    settings.check(run)
    if run.temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {run.temperature}")
    return run


def reward_of(config: DoctorConfig) -> str | None:
    """The reward that was asked for, or the trained one where it stands; None without either."""
    return config.reward or (REWARD if Path(REWARD).exists() else None)
