"""Options of the text commands, and each algorithm's settings for text.

Field docstrings are the help of the command line. Nothing here imports torch, so that help is fast.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from reward_models.config import PreferenceConfig
from reward_models.rules import FILM_NOTES
from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.core.options import Options, check_options, made_from, option
from rlhf_pg.runs import options_of

COMPARING = ("leave-one-out", "group", "group-centred")  # baselines that need K > 1 samples

Critic = Literal["shared", "detached", "separate", "none"]
Device = Literal["auto", "cpu"]
Tracker = Literal["tensorboard", "trackio"]

PYTHON_REWARD = "Python: "  # begins the reward of a run that was given a function, in its config

OF_ALGORITHM = LearnerConfig()  # stands for a learner that is not given


@dataclass
class TrainConfig(Options):
    """Train a language model toward a reward."""

    algorithm: str = "ppo"
    """Named preset of the learner's options: reinforce, reinforce-baseline, actor-critic, a2c, ppo,
    rloo, grpo, dr-grpo, dapo, gspo or cispo."""
    model: str = "runs/base"
    """Initial policy: a run, a folder, or a hub name."""
    reward: str = "runs/reward"
    """Reward to maximise: a rule's name, file.py:function, a folder with a reward model, a hub name
    of a classifier (name#label), or a weighted sum of them: "runs/reward + 0.1*length"."""
    data: str = FILM_NOTES
    """Prompts: a file, folder or hub name with a `prompt` column, a file of pairs or of
    conversations, or a txt file with a prompt a line; other columns reach the reward."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    gold: str | None = None
    """Second reward, logged and never trained on; film-notes has its own."""
    reference: str | None = None
    """Model to which the KL is measured. Defaults to a frozen copy of the initial policy."""
    iterations: int = option(100, at_least=1)
    """Number of rollouts, usually 50 to 1,000."""
    rows: int = option(64, at_least=1)
    """Completions per rollout, over all processes; usually 32 to 512."""
    samples_per_prompt: int = option(None, at_least=1)
    """Completions of each prompt, usually 2 to 8 for algorithms that compare them (rloo, grpo and
    its variants). Defaults to 4 for these, and to 1 for the other algorithms."""
    max_new_tokens: int = option(48, at_least=1)
    """Maximum length of a completion in tokens, EOS included."""
    temperature: float = option(1.0, at_least=0.01)
    """Sampling temperature. Log-probabilities of policy and reference use it too; usually 0.7 to
    1."""
    kl_coef: float = option(0.2, at_least=0)
    """Weight of KL(policy || reference), usually 0.02 to 0.2; 0 removes the penalty."""
    kl_target: float | None = option(None, above=0)
    """Adapt the weight to keep the KL near this many nats per completion, usually 3 to 10."""
    kl_horizon: float = option(10_000.0, above=0)
    """Time scale of the adaptive weight in episodes; smaller adapts faster."""
    missing_eos_penalty: float = option(1.0, at_least=0)
    """Subtracted from the score of a completion cut at the length limit, usually one standard
    deviation of the scores (which the first rollout prints): 1 for a reward model."""
    score_clip: float | None = option(None, above=0)
    """Clip scores to plus or minus this before the KL is subtracted, usually 5. Scores beyond it
    become equal, so the objective changes."""
    bootstrap_truncated: bool = False
    """Use V of the last state as the return still to come of a truncated completion. By default
    truncation is terminal, which is exact for this length limit."""
    mask_truncated: bool = False
    """Leave completions cut at the length limit out of the update and of their group's mean, in
    place of the penalty (DAPO's overlong filtering). What the policy then maximises is the score of
    the completions that end."""
    dynamic_sampling: int = option(None, at_least=0)
    """Draw groups whose scores are all equal, which teach nothing, anew from other prompts, at most
    this many times in a rollout (DAPO); usually 0 to 10. Defaults to 3 for dapo, else to 0. Prompts
    then count by how often their scores differ, and logged means are those of the final rollout."""
    critic: Critic = None  # type: ignore[assignment]
    """Model of the value function: a head on the policy's trunk ("shared"), on that trunk without
    passing gradients back ("detached"), a model of its own ("separate": twice the memory), or
    none. Defaults to "shared" if the algorithm needs a critic, else to none."""
    critic_from: str | None = None
    """Initialise a separate critic from this reward model (a folder or run), instead of a copy of
    the policy with a zero head."""
    lora_rank: int | None = option(None, at_least=1, at_most=4096)
    """Train LoRA adapters of this rank instead of all weights, usually 4 to 64 (extra: peft). The
    reference is then the same model without adapters; they are merged into the saved policy."""
    bf16: bool = False
    """Compute in bfloat16 where the device supports it; parameters, output layer and softmax stay
    in float32. Sampling and scoring then round differently, so log-probabilities are computed again
    by the forward pass that trains; sampling_gap in the log is their mean difference. Slow on CPUs
    without instructions for it (those that have AVX2 alone)."""
    reward_timeout: float | None = option(None, above=0)
    """End the run if scoring a rollout takes longer than this many seconds, usually 60 to 600; the
    last checkpoint stays. By default it may take any time."""
    samples_every: int = option(10, at_least=1)
    """Iterations between entries of samples.jsonl and tokens.jsonl."""
    samples_kept: int = option(4, at_least=0)
    """Completions per entry: of the rollout in samples.jsonl, of the same fixed prompts through
    the whole run in tokens.jsonl."""
    eval_data: str | None = None
    """Held-out prompts, as `data`, on which the policy is measured as it learns (eval_score,
    eval_kl). best/ then holds the policy of the greatest eval_score, else of the best objective."""
    eval_every: int = option(10, at_least=1)
    """Iterations between these measurements, usually 5 to 50; the last iteration is measured
    too."""
    eval_prompts: int = option(100, at_least=1)
    """Maximum number of held-out prompts, spread over the data, with one completion each; usually
    50 to 500. The same random numbers are used each time."""
    track: Tracker | None = None
    """Also send the metrics to this tracker on this machine (extra: track). tensorboard writes to
    the run's folder, trackio to its own."""
    processes: int = option(1, at_least=1, at_most=1024)
    """Processes on this machine, usually one per GPU or two to four CPU cores each. `torchrun` and,
    on GPUs, `accelerate launch` work too. The model must fit on each device."""
    checkpoint_every: int | None = option(None, at_least=0)
    """Iterations between checkpoints, to resume from; 0 writes none. By default as often as takes
    under 5 % of the time, and at most every 10 seconds."""
    device: Device = "auto"
    """"auto" uses a CUDA GPU if there is one, and never Apple's (MPS); "cpu" uses none."""
    seed: int = option(0, at_least=0)
    """Random seed of sampling, prompt order and minibatches."""
    output: str | None = None
    """Run folder. Defaults to runs/ALGORITHM, or the next free number."""
    learner: LearnerConfig = field(default_factory=lambda: OF_ALGORITHM)
    """How a rollout becomes gradient steps. The algorithm sets these; each can be changed."""

    def __post_init__(self) -> None:
        """Set what is not given to the algorithm's; raises ValueError for wrong options."""
        if self.learner is OF_ALGORITHM:
            self.learner = algorithm(self.algorithm, lr=5e-4, gamma=1.0)
            if self.algorithm == "ppo":
                self.learner.epochs = 2
            # Four steps a rollout at 5e-4 lose the gold: data/results/variants.md.
            self.learner.lr = {"dapo": 2.5e-4, "cispo": 1.25e-4}.get(self.algorithm, 5e-4)
        if isinstance(self.learner, LearnerConfig) and self.samples_per_prompt is None:
            self.samples_per_prompt = 4 if self.learner.baseline in COMPARING else 1
        if self.dynamic_sampling is None:
            self.dynamic_sampling = 3 if self.algorithm == "dapo" else 0
        if isinstance(self.learner, LearnerConfig) and self.critic is None:
            self.critic = "shared" if self.learner.baseline == "critic" else "none"
        super().__post_init__()


def preset(algorithm_name: str) -> TrainConfig:
    """Settings of a named algorithm for text; raises ValueError for an unknown name."""
    return TrainConfig(algorithm=algorithm_name)


def check(config: TrainConfig) -> None:
    """Raise ValueError if an option is out of range or contradicts another.

    Ranges are checked again, since attributes may have been set after the object was made.
    """
    if config.algorithm not in ALGORITHMS:
        algorithm(config.algorithm)  # raises, naming the nearest
    check_options(config)
    if config.rows % config.samples_per_prompt:
        raise ValueError(
            f"rows ({config.rows}) must be a multiple of samples_per_prompt "
            f"({config.samples_per_prompt})"
        )
    if config.kl_target is not None and not config.kl_coef:
        raise ValueError(
            "kl_target adapts kl_coef, which never moves from 0: set --kl_coef above 0"
        )
    if config.critic_from is not None and config.critic != "separate":
        raise ValueError(
            "critic_from initialises a critic with a model of its own: set --critic separate, not "
            f"{config.critic}"
        )
    baseline = config.learner.baseline
    if baseline in COMPARING and config.samples_per_prompt < 2:
        raise ValueError(
            f"baseline {baseline!r} compares samples of a prompt: set --samples_per_prompt to 2 "
            "or more"
        )
    if config.dynamic_sampling and config.samples_per_prompt < 2:
        raise ValueError(
            "dynamic_sampling compares samples of a prompt: set --samples_per_prompt to 2 or more"
        )
    if baseline == "critic" and config.critic == "none":
        raise ValueError(
            'baseline "critic" needs a critic: set --critic shared, or another --learner.baseline'
        )


def train_config(path: Path) -> TrainConfig:
    """The options of a run, from its config.yaml; raises ValueError for unknown or wrong ones."""
    config: TrainConfig = made_from(TrainConfig, options_of(path), str(path / "config.yaml"))
    return config


def with_kept_models(config: TrainConfig, run: Path) -> TrainConfig:
    """The options with the initial model and reference that the run keeps in its folder."""
    kept = {name: str(run / name) for name in ("initial", "reference") if (run / name).is_dir()}
    return replace(
        config,
        model=kept.get("initial", config.model),
        reference=kept.get("reference", config.reference),
    )


@dataclass
class FinetuneConfig(Options):
    """Train a language model on text."""

    data: str = FILM_NOTES
    """Text: a file, folder or hub name with a `text` column, or `prompt` and `completion`."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    test: str | None = None
    """Held-out text. Defaults to the last 5 % of the data (film-notes has its own)."""
    model: str | None = None
    """Initial model: a folder, a run or a hub name. By default a tiny new one is made."""
    tokenizer: Literal["word", "bpe"] = "word"
    """Tokenizer of a new model: whole words (small closed vocabularies), or byte-level BPE (any
    text)."""
    vocabulary: int = option(2000, at_least=4)
    """Maximum vocabulary of a new tokenizer, usually 200 to 8,000."""
    width: int = option(128, at_least=1)
    """Hidden size of a new model, usually 64 to 256."""
    layers: int = option(2, at_least=1, at_most=1000)
    """Transformer blocks of a new model, usually 2 to 6."""
    heads: int = option(4, at_least=1)
    """Attention heads of a new model; they divide the width."""
    context: int = option(128, at_least=2)
    """Context length of a new model in tokens; longer texts are trained on in pieces."""
    epochs: int = option(3, at_least=1, at_most=1000)
    """Passes over the text, usually 1 to 10."""
    batch_size: int = option(16, at_least=1)
    """Texts per gradient step, usually 16 (tiny models) to 128."""
    lr: float | None = option(None, above=0)
    """Peak learning rate, warmed up and then annealed to 0; usually 1e-3 to 5e-3 (tiny models),
    1e-5 to 1e-4 (pretrained ones). Defaults to 3e-3 for a new or tiny model (under 20 million
    parameters), 5e-5 for a larger one."""
    checkpoint_every: int | None = option(None, at_least=0)
    """Gradient steps between checkpoints, to resume from; 0 writes none. By default as often as
    takes under 5 % of the time, and at most every 10 seconds."""
    seed: int = option(0, at_least=0)
    """Random seed of the weights and the order of the texts."""
    output: str | None = None
    """Run folder. Defaults to runs/base, or the next free number."""


@dataclass
class RewardConfig(Options):
    """Train a Bradley-Terry reward model on preference pairs."""

    data: str = FILM_NOTES
    """Pairs: a file, folder or hub name with `prompt`, `chosen` and `rejected`; or completions with
    a `label` that is true or false."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    test: str | None = None
    """Held-out pairs. Defaults to a share of the data (film-notes has its own)."""
    model: str = "runs/base"
    """Language model to start from: a run, a folder, or a hub name."""
    lora_rank: int | None = option(None, at_least=1)
    """Train LoRA adapters of this rank and the head instead of all weights, usually 8 to 64 (extra:
    peft). They are merged into the saved model."""
    freeze_trunk: bool = False
    """Train the head alone."""
    bf16: bool = False
    """Train in bfloat16 where the device supports it; the trained model scores in fp32."""
    max_length: int | None = option(None, at_least=1)
    """Maximum length of a text in tokens, usually 256 to 2,048; longer ones lose the beginning of
    their prompt. Defaults to the model's context."""
    device: Device = "auto"
    """"auto" uses a CUDA GPU if there is one, and never Apple's (MPS); "cpu" uses none."""
    curve: list[int] | None = option(None, at_least=1)
    """Also train new models on these numbers of pairs and report their accuracy: '[500, 1000]'."""
    checkpoint_every: int | None = option(None, at_least=0)
    """Gradient steps between checkpoints, to resume from; 0 writes none. By default as often as
    takes under 5 % of the time, and at most every 10 seconds."""
    output: str | None = None
    """Run folder. Defaults to runs/reward, or the next free number."""
    learner: PreferenceConfig = field(default_factory=PreferenceConfig)
    """How the model learns from the pairs."""


@dataclass
class SampleConfig(Options):
    """Print completions of a model, with their scores."""

    model: str = "runs/ppo"
    """A run, a folder, or a hub name."""
    prompt: list[str] | str | None = None
    """A prompt, or a list of prompts: '["one", "two"]'. Defaults to prompts of the data."""
    data: str | None = None
    """Source of the prompts, as in `rlhf-pg train`. Defaults to the run's, or film-notes."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    reward: str | None = None
    """Score each completion with this reward; "none" scores none. Defaults to the run's, and to the
    gold score for film-notes."""
    count: int = option(5, at_least=1)
    """Number of prompts taken from the data."""
    samples_per_prompt: int = option(1, at_least=1)
    """Completions of each prompt."""
    max_new_tokens: int | None = option(None, at_least=1)
    """Maximum length of a completion in tokens, EOS included. Defaults to the run's, or 48."""
    temperature: float | None = option(None, at_least=0.01)
    """Sampling temperature; below 1 likely tokens become likelier. Defaults to the run's, or 1."""
    chat: bool = False
    """Answer what you type, line by line, until Ctrl-D: as a conversation, if the tokenizer has a
    chat template. `prompt`, `data`, `reward` and the counts are then not used."""
    greedy: bool = False
    """Take the likeliest token each time instead of sampling."""
    seed: int = option(0, at_least=0)
    """Random seed of sampling."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


@dataclass
class EvaluateConfig(Options):
    """Measure a policy on prompts it was not trained on, or a control run on new episodes."""

    model: str = "runs/ppo"
    """A run, best/ in one, a folder, or a hub name."""
    base: str | None = None
    """Model to compare with: a run, a folder or a hub name. Defaults to the run's initial model."""
    reward: str | None = None
    """The reward, as in `rlhf-pg train`. Defaults to the run's own."""
    gold: str | None = None
    """A second reward. Defaults to the run's own; film-notes has one."""
    data: str | None = None
    """Prompts. Defaults to the run's (film-notes: the test prompts, not the training ones)."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    prompts: int = option(100, at_least=1)
    """Maximum number of prompts, spread over the data; usually 50 to 500."""
    samples_per_prompt: int = option(4, at_least=1)
    """Completions of each prompt, usually 1 to 8."""
    best_of: int = option(64, at_least=0)
    """Largest n of best-of-n (1, 2, 4, ... up to it), sampled from the base model for every prompt;
    0 measures no best-of-n."""
    max_new_tokens: int | None = option(None, at_least=1)
    """Maximum length of a completion in tokens, EOS included. Defaults to the run's, or 48."""
    temperature: float | None = option(None, at_least=0.01)
    """Sampling temperature. Defaults to the run's, or 1."""
    device: Device = "auto"
    """"auto" uses a CUDA GPU if there is one, and never Apple's (MPS); "cpu" uses none."""
    episodes: int | None = option(None, at_least=1, at_most=100_000)
    """Only for a run of `rlhf-pg control`: episodes, usually 20 to 1,000. Defaults to the run's
    `eval_episodes`."""
    greedy: bool = False
    """Only for a run of `rlhf-pg control`: take the most likely action instead of sampling."""
    seed: int = option(0, at_least=0)
    """Random seed of sampling, and of the environments."""
    output: str | None = None
    """A .json file for the result. Defaults to evaluation.json in the run, if MODEL is one."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


@dataclass
class FrontierConfig(Options):
    """Train with several KL coefficients, and compare the results with best-of-n."""

    coefficients: list[float] = option([0.0, 0.05, 0.1, 0.2, 0.4], at_least=0)
    """KL coefficients, usually 4 to 8 from 0 to 0.5; each is one training run."""
    algorithm: str = "ppo"
    """Algorithm as in `rlhf-pg train`, with its settings for text."""
    model: str = "runs/base"
    """Initial policy: a run, a folder, or a hub name."""
    reward: str = "runs/reward"
    """The learned reward to maximise, as in `rlhf-pg train`."""
    gold: str | None = None
    """A second reward that is only measured; film-notes has its own."""
    data: str = FILM_NOTES
    """Prompts: a file, folder or hub name with a `prompt` column."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    iterations: int = option(60, at_least=1)
    """Rollouts of each run, usually 50 to 200."""
    rows: int = option(64, at_least=1)
    """Completions per rollout, usually 32 to 512."""
    lr: float | None = option(None, above=0)
    """Learning rate. Defaults to the algorithm's own."""
    max_new_tokens: int = option(48, at_least=1)
    """Maximum length of a completion in tokens, EOS included."""
    temperature: float = option(1.0, at_least=0.01)
    """Sampling temperature, usually 0.7 to 1."""
    missing_eos_penalty: float = option(1.0, at_least=0)
    """Subtracted in training from the score of a completion cut at the length limit."""
    prompts: int = option(100, at_least=1)
    """Maximum number of prompts to measure on, usually 50 to 500."""
    samples_per_prompt: int = option(4, at_least=1)
    """Completions of each prompt when measuring, usually 1 to 8."""
    best_of: int = option(64, at_least=1)
    """Largest n of best-of-n from the initial policy."""
    device: Device = "auto"
    """"auto" uses a CUDA GPU if there is one, and never Apple's (MPS); "cpu" uses none."""
    seed: int = option(0, at_least=0)
    """Random seed of every run and measurement."""
    output: str | None = None
    """Run folder. Defaults to runs/frontier, or the next free number."""


@dataclass
class LabelConfig(Options):
    """Judge pairs of completions yourself, as training data for `rlhf-pg reward`."""

    model: str = "runs/base"
    """Model that writes the completions: a run, a folder, or a hub name."""
    reward: str | None = None
    """Current reward model, as in `rlhf-pg train`. Pairs whose scores differ least are shown
    first, and its agreement with you is reported. Defaults to the run's; without one, or with
    "none", pairs are random."""
    data: str | None = None
    """Prompts, as in `rlhf-pg train`. Defaults to the run's, or film-notes."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    count: int = option(50, at_least=1)
    """Pairs to judge in this session, usually 20 to 200."""
    samples_per_prompt: int = option(4, at_least=2)
    """Completions of each prompt to choose a pair from, usually 2 to 8."""
    max_new_tokens: int | None = option(None, at_least=1)
    """Maximum length of a completion in tokens, EOS included. Defaults to the run's, or 48."""
    temperature: float | None = option(None, at_least=0.01)
    """Sampling temperature, usually 0.7 to 1. Defaults to the run's, or 1."""
    device: Device = "auto"
    """"auto" uses a CUDA GPU if there is one, and never Apple's (MPS); "cpu" uses none."""
    seed: int = option(0, at_least=0)
    """Random seed of sampling, and of which completion stands on the left."""
    output: str = "runs/label"
    """Folder of the judgements; an existing one is continued."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


@dataclass
class DataShowConfig(Options):
    """Show how a data source is read."""

    path: str = FILM_NOTES
    """A file, a folder, a hub name, or "film-notes"."""
    columns: str | None = None
    """Columns of the data that have other names here: "prompt=question,chosen=better"."""
    model: str | None = None
    """Count tokens with this model's tokenizer, and format messages with its chat template. By
    default words are counted."""
    split: Literal["train", "test"] = "train"
    """Which split, if the source has several."""


@dataclass
class DemoConfig(Options):
    """Fine-tune, make preferences, train a reward model, run PPO with and without the KL."""

    preset: str = "full"
    """ "full", or "smoke": every step, far too short to learn, in under 30 seconds."""
    texts: int = option(6000, at_least=20, at_most=6000)
    """Film notes to train the language model on; 6,000 is all of them."""
    epochs: int = option(3, at_least=1, at_most=1000)
    """Passes over them, usually 2 to 4."""
    pairs: int = option(4000, at_least=2)
    """Preference pairs, usually 3,000 to 6,000; 1,000 give a noisy reward model."""
    noise: float = option(0.5, at_least=0.01)
    """P(choose a) = sigmoid((gold a - gold b) / noise), usually 0.3 to 2."""
    iterations: int = option(60, at_least=1)
    """PPO rollouts of 64 completions, usually 50 to 150."""
    kl_coef: float = option(0.2, at_least=0)
    """KL coefficient of the run with the penalty."""
    seed: int = option(0, at_least=0)
    """Random seed."""
    output: str | None = None
    """Run folder. Defaults to runs/demo, or the next free number."""


def demo_preset(name: str) -> DemoConfig:
    """The settings of "full" and "smoke"; raises ValueError for another name."""
    if name == "full":
        return DemoConfig()
    if name == "smoke":
        return DemoConfig(preset="smoke", texts=600, epochs=1, pairs=64, iterations=2)
    raise ValueError(f"unknown preset {name!r}: use 'full' or 'smoke'")
