"""The commands of the study that need a reward: they hand it over and stay out of the way."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.loading import load_reward

if TYPE_CHECKING:
    from rlhf_pg.study.credit import CreditConfig
    from rlhf_pg.study.doctor import DoctorConfig
    from rlhf_pg.study.estimators_command import EstimatorsConfig
    from rlhf_pg.study.inspection import InspectConfig
    from rlhf_pg.study.oracle_command import OracleConfig


def oracle(config: "OracleConfig") -> Any:
    """Print and save the exact answers of a small task."""
    from rlhf_pg.study import oracle_command

    return oracle_command.main(config, load_reward)


def estimators(config: "EstimatorsConfig") -> Any:
    """Print and save the bias and variance of every estimator at one policy."""
    from rlhf_pg.study import estimators_command

    return estimators_command.main(config, load_reward)


def credit(config: "CreditConfig") -> Any:
    """Print and save how well a run's advantages agree with the true ones."""
    from rlhf_pg.study import credit as study

    return study.main(config, load_reward)


def inspect(config: "InspectConfig") -> Path | None:
    """Write a run's page, or print its tokens in the terminal."""
    from rlhf_pg.study import inspection

    return inspection.main(config, load_reward)


def doctor(config: "DoctorConfig") -> Any:
    """Check a model, its tokenizer, the data and the reward."""
    from rlhf_pg.study import doctor as study

    return study.main(config, load_reward)
