"""Options of the study commands; imports neither torch nor transformers."""

from dataclasses import dataclass

from rlhf_pg.language.config import TrainConfig


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
