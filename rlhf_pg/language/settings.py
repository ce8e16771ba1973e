"""What can be asked of an RLHF run, and what each named algorithm asks for text."""

from dataclasses import dataclass, field
from typing import Literal

from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.language.policy import Critic

COMPARING = ("leave-one-out", "group", "group-centred")  # baselines that need K > 1 samples


@dataclass
class TrainConfig:
    """Train a language model toward a reward."""

    algorithm: str = "ppo"
    """A named choice of the learner's options: reinforce, reinforce-baseline, actor-critic, a2c,
    ppo, rloo or grpo."""
    model: str = "runs/base"
    """The policy to begin with: a run, a folder, or a hub name."""
    reward: str = "runs/reward"
    """What to maximise: a rule's name, file.py:function, a folder with a reward model, a hub name
    of a classifier (name#label), or a weighted sum of them: "runs/reward + 0.1*length"."""
    data: str = "film-notes"
    """Prompts: a file, folder or hub name with a `prompt` column; others reach the reward."""
    gold: str | None = None
    """A second reward, measured and never trained on; film-notes has its own."""
    reference: str | None = None
    """The model to stay near; None is the policy as it began."""
    iterations: int = 100
    """Rollouts to learn from, usually 50 to 1,000."""
    rows: int = 64
    """Completions in a rollout, over all processes; usually 32 to 512."""
    samples_per_prompt: int = 1
    """Completions of each prompt, usually 2 to 8 for rloo and grpo."""
    max_new_tokens: int = 48
    """Longest completion, EOS included."""
    temperature: float = 1.0
    """Of sampling, and so of scoring, for policy and reference; usually 0.7 to 1."""
    kl_coef: float = 0.2
    """Weight of KL(policy || reference), usually 0.02 to 0.2; 0 leaves the policy free."""
    kl_target: float | None = None
    """Adapt the weight to hold the KL near this many nats per completion, usually 3 to 10."""
    kl_horizon: float = 10_000.0
    """Episodes over which the adaptive weight may move far; smaller is faster."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a completion cut at the length limit, usually 0 to 1."""
    score_clip: float | None = None
    """Hold scores within plus or minus this, before the KL is added; usually 5. What lies beyond is
    no longer told apart: another objective."""
    bootstrap_truncated: bool = False
    """Let the critic stand in for what a cut completion might still earn; else it is terminal,
    which is exact for completions of this length, and biased as an estimate of longer ones."""
    critic: Critic = "shared"
    """Where V reads the state: the policy's own trunk, that trunk without gradient, a model of its
    own ("separate": twice the memory, and neither loss disturbs the other), or nowhere."""
    critic_from: str | None = None
    """Begin a separate critic as this reward model (its folder or run), in place of a copy of the
    policy with a head at zero."""
    lora_rank: int | None = None
    """Train LoRA adapters of this rank, usually 4 to 64, in place of all weights (extra: peft); the
    reference is then the same model with them off. They are merged into what is saved."""
    bf16: bool = False
    """Compute in bfloat16, where the device has it; sampling then differs from scoring in the third
    digit (see first_ratio_drift)."""
    samples_every: int = 10
    """Iterations between entries of samples.jsonl and tokens.jsonl."""
    samples_kept: int = 4
    """Completions in such an entry: of the rollout in samples.jsonl, of the same prompts all
    through the run in tokens.jsonl."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one; "cpu" does not."""
    seed: int = 0
    """Of sampling, the order of prompts and of minibatches."""
    output: str | None = None
    """Run folder; None takes runs/ALGORITHM, or the next free number."""
    learner: LearnerConfig = field(default_factory=lambda: LearnerConfig())
    """How a rollout becomes gradient steps; the algorithm sets these, and each can be changed."""


def preset(algorithm_name: str) -> TrainConfig:
    """The settings of a named algorithm for text; raises ValueError for an unknown name."""
    learner = algorithm(algorithm_name, lr=5e-4, gamma=1.0)
    if algorithm_name == "ppo":
        learner.epochs = 2
    compares = learner.baseline in COMPARING
    return TrainConfig(
        algorithm=algorithm_name,
        samples_per_prompt=4 if compares else 1,
        critic="shared" if learner.baseline == "critic" else "none",
        learner=learner,
    )


def check(config: TrainConfig) -> None:
    """Raise ValueError where the options contradict each other or themselves."""
    if config.algorithm not in ALGORITHMS:
        algorithm(config.algorithm)  # raises, naming the nearest
    for name in ("iterations", "rows", "samples_per_prompt", "max_new_tokens", "samples_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    for name in ("kl_coef", "missing_eos_penalty", "samples_kept", "score_clip"):
        value = getattr(config, name)
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be below 0, but is {value}")
    if config.rows % config.samples_per_prompt:
        raise ValueError(
            f"rows ({config.rows}) must be a multiple of samples_per_prompt "
            f"({config.samples_per_prompt})"
        )
    if config.lora_rank is not None and config.lora_rank < 1:
        raise ValueError(f"lora_rank must be at least 1, not {config.lora_rank}")
    if config.critic_from is not None and config.critic != "separate":
        raise ValueError(f"critic_from begins a critic of its own: set --critic separate, not "
                         f"{config.critic}")  # fmt: skip
    baseline = config.learner.baseline
    if baseline in COMPARING and config.samples_per_prompt < 2:
        raise ValueError(f"baseline {baseline!r} compares samples of a prompt: "
                         "set --samples_per_prompt to 2 or more")  # fmt: skip
    if baseline == "critic" and config.critic == "none":
        raise ValueError('baseline "critic" needs a critic: set --critic shared, or another '
                         "--learner.baseline")  # fmt: skip
