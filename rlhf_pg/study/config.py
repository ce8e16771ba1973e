"""Options of the study commands; imports neither torch nor transformers."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_pg.core.options import Options, check_options, option
from rlhf_pg.language.config import PYTHON_REWARD, TrainConfig, preset, train_config
from rlhf_pg.runs import options_of

BLOCKS = 20  # standard errors come from so many blocks of estimates (`study estimators`)


@dataclass
class CreditConfig(Options):
    """Compare the advantages of a policy, token by token, with the true ones."""

    run: str = "runs/ppo"
    """Folder of a run, a model inside a run, or any model with --reward; or of a reward model, to
    see what each token of a text adds to its score."""
    completions: int = option(32, at_least=1)
    """Number of completions to measure, usually 16 to 200; of prompts spread over the data."""
    continuations: int = option(64, at_least=2)
    """Continuations of every prefix, usually 32 to 512; the standard error of a true value falls
    with the square root of this number."""
    reward: str | None = None
    """Reward, as in `rlhf-pg train`. Default: the run's own."""
    data: str | None = None
    """Source of prompts, or of texts or pairs for a reward model. Default: the run's own."""
    reference: str | None = None
    """Reference model of the KL. Default: the run's own."""
    max_new_tokens: int | None = option(None, at_least=1)
    """Longest completion, EOS included. Default: the run's own."""
    seed: int = option(0, at_least=0)
    """Random seed."""
    output: str | None = None
    """Folder of credit.jsonl and credit.json, which replace older ones. Default: the run's."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


@dataclass
class InspectConfig(Options):
    """Show a run: its metrics, and every token's advantage beside the true one."""

    run: str = "runs/ppo"
    """Folder of a run of `rlhf-pg train`, `rlhf-pg control` or `rlhf-pg study estimators`."""
    completions: int = option(24, at_least=1)
    """Completions of the trained policy whose true advantages are measured, usually 8 to 64. For a
    control run, a sixth as many episodes are recorded, at least one."""
    continuations: int = option(32, at_least=0)
    """Continuations of every prefix, usually 32 to 256; 0: do not measure true advantages."""
    again: bool = False
    """Measure again, even if the run has a credit.jsonl."""
    terminal: bool = False
    """Print coloured tokens in the terminal instead of writing a page."""
    channel: str = "advantage"
    """Number that colours the tokens with --terminal: advantage, true_advantage, delta, reward, kl,
    logprob, value, entropy or ratio."""
    seed: int = option(0, at_least=0)
    """Random seed."""
    output: str | None = None
    """File of the page. Default: report.html in the run's folder; for several runs, curves.html
    in the first one's."""
    others: list[str] = option([])
    """Folders of further runs: the page then shows the curves of all of them over each other, and
    the options in which they differ."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


@dataclass
class DoctorConfig(TrainConfig):
    """Check a model, its tokenizer, the data and the reward before training.

    Options are those of `rlhf-pg train`. Without a reward at the default place, the checks of the
    reward are skipped.
    """

    output: str | None = None
    """A .json file for the results, or a folder for doctor.json. By default nothing is written."""
    explain: bool = False
    """Print under each check what it tests."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


def doctor_preset(algorithm: str, model: str) -> TrainConfig:
    """The options of the run that the model is, or the settings of a named algorithm.

    Another algorithm than the default one keeps the run's data, reward, length and temperature.
    Raises ValueError for an unknown name.
    """
    if not {"algorithm", "rows"} <= set(options_of(model)):
        return preset(algorithm)
    run = train_config(Path(model))
    if run.reward.startswith(PYTHON_REWARD):
        run.reward = TrainConfig.reward
    if algorithm in (TrainConfig.algorithm, run.algorithm):
        return run
    names = ("data", "columns", "reward", "gold", "max_new_tokens", "temperature")
    return replace(preset(algorithm), **{name: getattr(run, name) for name in names})


@dataclass
class BugsConfig(Options):
    """Measure what known silent bugs do to the expected gradient and to learning."""

    bug: str = "all"
    """Name of a bug (`study bugs` lists them), or all."""
    cartpole: bool = True
    """Also train PPO on CartPole, 3 seeds, with every bug that can occur there, to see whether such
    a test notices it; about half of the time."""
    output: str | None = None
    """Run folder. Default: runs/bugs, or the next free number."""


@dataclass
class OracleConfig(Options):
    """Exact answers for a task small enough to enumerate."""

    model: str | None = None
    """Language model with a small vocabulary: a run, a folder or a hub name. Default: a random tiny
    model over eight words, with a reward of its own."""
    reference: str | None = None
    """Reference model of the KL. Default: that of the small task, or the model itself."""
    reward: str | None = None
    """Reward to maximise, as in `rlhf-pg train`."""
    prompt: str | list[str] | None = None
    """Prompt, or a list of prompts ('[one, two]'), whose mean is printed too."""
    max_new_tokens: int = option(5, at_least=1)
    """Longest completion, EOS included; the number of completions is exponential in it."""
    kl_coef: float | None = option(None, at_least=0)
    """Weight of KL(policy || reference). Default: 0.5 for text, 0 for an MDP."""
    missing_eos_penalty: float = option(0.0, at_least=0)
    """Subtracted from the score of a completion cut at the length limit, usually 0 to 1."""
    temperature: float = option(1.0, at_least=0.01)
    """Sampling temperature of policy and reference, usually 0.7 to 1."""
    mdp: str | None = None
    """A tabular MDP instead of a language model: two-state or gridworld; the policy is uniform."""
    show: int = option(8, at_least=1)
    """Number of next tokens printed in the tree, usually 5 to 20."""
    most: int = option(20_000, at_least=1, at_most=10_000_000)
    """Largest number of completions of a prompt; 20,000 take seconds."""
    seed: int = option(0, at_least=0)
    """Random seed of the small task's model."""
    output: str | None = None
    """Run folder, which must be new. Default: runs/oracle, or the next free number."""

    def check(self) -> None:
        """Raise ValueError, with the option named, if an option is missing or out of range."""
        check_options(self)
        if self.mdp is not None and self.model is not None:
            raise ValueError("give --mdp or --model, not both")
        for name in ("reward", "prompt"):
            if self.model is not None and getattr(self, name) is None:
                raise ValueError(f"--model needs a --{name}, too")
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if prompts is not None and (not prompts or not all(text.strip() for text in prompts)):
            raise ValueError("prompt: give at least one, and none that is empty")


@dataclass
class EstimatorsConfig(Options):
    """Bias and variance of every gradient estimator at one policy.

    Without --model or --env it is that of a small task whose true gradient is known exactly.
    """

    model: str | None = None
    """Run of `rlhf-pg train` or `rlhf-pg control`; its final policy is measured."""
    env: str | None = None
    """Gymnasium id, instead of a run: a2c trains there for `probe_steps` first."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as in --env_options.max_episode_steps 1000."""
    reward: str | None = None
    """Reward, as in `rlhf-pg train`. Default: the run's own."""
    rows: int = option(16, at_least=2)
    """Episodes in a batch, which gives one estimate; usually 8 to 64."""
    samples_per_prompt: int = option(4, at_least=2)
    """Episodes of a batch that start from the same prompt, for the baselines that compare them;
    usually 2 to 8."""
    estimates: int = option(200, at_least=2 * BLOCKS)
    """Number of batches, a multiple of 20; standard errors fall with its square root."""
    truth_rows: int = option(8192, at_least=1)
    """Episodes that estimate the true gradient if it cannot be enumerated, usually 2,000 to 50,000;
    none of them is in a batch."""
    lambdas: list[float] = option([0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0], at_least=0, at_most=1)
    """Values of GAE's lambda."""
    ppo_steps: list[int] = option([0, 1, 2, 4, 8], at_least=0)
    """Numbers of PPO steps after which PPO's gradient is measured; each needs a true gradient of
    its own."""
    critic_batches: int = option(32, at_least=1)
    """Batches to fit a critic on, if the policy has none."""
    probe_steps: int = option(10_000, at_least=1)
    """Environment steps of a2c with --env."""
    seed: int = option(0, at_least=0)
    """Random seed."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""
    output: str | None = None
    """Folder of estimators.json, which must be new. Default: that of the run, or
    runs/estimators."""

    def check(self) -> None:
        """Raise ValueError, with the option named, if an option is out of range."""
        if self.model and self.env:
            raise ValueError("give --model or --env, not both")
        check_options(self)
        if self.rows % self.samples_per_prompt:
            raise ValueError(
                f"rows ({self.rows}) must be a multiple of samples_per_prompt "
                f"({self.samples_per_prompt})"
            )
        if self.estimates % BLOCKS:
            raise ValueError(f"estimates must be a multiple of {BLOCKS}, not {self.estimates}")
        if not self.lambdas:
            raise ValueError("lambdas: give at least one")


@dataclass
class ExamplesConfig(Options):
    """Print worked examples, every step with its equation."""

    example: str = "all"
    """One of softmax-step, bernoulli-bandit, two-step-td, reward-to-go, gae and
    rock-paper-scissors, or all of them."""


@dataclass
class PlaygroundConfig(Options):
    """Write a page on which small policies learn before your eyes."""

    output: str = "playground.html"
    """File of the page; an older one is replaced."""


@dataclass
class ExerciseConfig(Options):
    """List the exercises, write the template of one, or grade a solution."""

    name: str | None = None
    """Name of an exercise, which is that of the function to write. Default: list them all."""
    file: str | None = None
    """Python file with your solution, whose code is run. Default: write a template, NAME.py."""
    timeout: float = option(10.0, above=0)
    """Seconds after which a solution is stopped, usually 10."""
