"""Options of the study commands; imports neither torch nor transformers."""

from dataclasses import dataclass

from rlhf_pg.language.config import TrainConfig


@dataclass
class CreditConfig:
    """Compare the advantages of a policy, token by token, with the true ones."""

    run: str = "runs/ppo"
    """Folder of a run, a model inside a run, or any model with --reward."""
    completions: int = 32
    """Number of completions to measure, usually 16 to 200; of prompts spread over the data."""
    continuations: int = 64
    """Continuations of every prefix, usually 32 to 512; the standard error of a true value falls
    with the square root of this number."""
    reward: str | None = None
    """Reward, as in `rlhf-pg train`. Default: the run's own."""
    data: str | None = None
    """Source of prompts. Default: the run's own."""
    reference: str | None = None
    """Reference model of the KL. Default: the run's own."""
    max_new_tokens: int | None = None
    """Longest completion, EOS included. Default: the run's own."""
    seed: int = 0
    """Random seed."""
    output: str | None = None
    """Folder of credit.jsonl and credit.json, which replace older ones. Default: the run's."""


@dataclass
class InspectConfig:
    """Show a run: its metrics, and every token's advantage beside the true one."""

    run: str = "runs/ppo"
    """Folder of a run of `rlhf-pg train`, `rlhf-pg control` or `rlhf-pg study estimators`."""
    completions: int = 24
    """Completions of the trained policy whose true advantages are measured, usually 8 to 64. For a
    control run, a sixth as many episodes are recorded, at least one."""
    continuations: int = 32
    """Continuations of every prefix, usually 32 to 256; 0: do not measure true advantages."""
    again: bool = False
    """Measure again, even if the run has a credit.jsonl."""
    terminal: bool = False
    """Print coloured tokens in the terminal instead of writing a page."""
    channel: str = "advantage"
    """Number that colours the tokens with --terminal: advantage, true_advantage, delta, reward, kl,
    logprob, value, entropy or ratio."""
    seed: int = 0
    """Random seed."""
    output: str | None = None
    """File of the page. Default: report.html in the run's folder."""


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


@dataclass
class BugsConfig:
    """Measure what known silent bugs do to the expected gradient and to learning."""

    bug: str = "all"
    """Name of a bug (`study bugs` lists them), or all."""
    cartpole: bool = True
    """Also train PPO on CartPole, 3 seeds, with every bug that can occur there, to see whether such
    a test notices it; about half of the time."""
    output: str | None = None
    """Run folder. Default: runs/bugs, or the next free number."""
