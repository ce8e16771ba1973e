"""All checks in order; none stops the others."""

from collections.abc import Callable
from typing import Any

from rlhf_pg.progress import Progress, console
from rlhf_pg.study.doctor import data, model, report, reward, scores, scoring, step, tokenizer
from rlhf_pg.study.doctor.finding import Check, Finding, Missing, one_line
from rlhf_pg.study.doctor.patient import Patient
from rlhf_pg.study.doctor.settings import DoctorConfig

GROUPS: dict[str, dict[str, Check]] = {
    "model": {**model.CHECKS, **scoring.CHECKS},
    "tokenizer": tokenizer.CHECKS,
    "data": data.CHECKS,
    "reward": {**reward.CHECKS, **scores.CHECKS},
    "step": step.CHECKS,
}


def main(config: DoctorConfig, load_reward: Callable[[Any], Any]) -> list[Finding]:
    """Examine, print the table and what to do, and write doctor.json where `output` asks for it.

    Raises SystemExit(1), after all of that, where something failed; ValueError for options that
    do not suit each other.
    """
    patient = Patient(config, load_reward)
    findings = examine(patient, shown=console.is_terminal)
    report.show(patient, findings)
    if config.output is not None:
        report.write(config, findings)
    if any(finding.status == "fail" for finding in findings):
        raise SystemExit(1)
    return findings


def examine(patient: Patient, shown: bool = False) -> list[Finding]:
    """Every check's finding, in the order of GROUPS; `shown` with a progress bar."""
    checks = [(group, name, c) for group, those in GROUPS.items() for name, c in those.items()]
    findings = []
    with Progress(len(checks), "examining", shown=shown) as progress:
        for done, (group, name, check) in enumerate(checks):
            finding = run(check, patient)
            finding.group, finding.name = group, name
            finding.meaning = " ".join((check.__doc__ or "").split())
            findings.append(finding)
            progress.update(done + 1)
    return findings


def run(check: Check, patient: Patient) -> Finding:
    """One check: skipped where what it needs is missing, a failure where it raises."""
    try:
        return check(patient)
    except Missing as reason:
        return Finding("skipped", str(reason))
    except Exception as error:  # of a model, a tokenizer or a reward of somebody else's
        return Finding("fail", "could not be done", "", one_line(error))
