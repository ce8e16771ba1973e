"""The findings as a table, what to do about them, and doctor.json."""

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rlhf_pg.progress import console
from rlhf_pg.runs import saved_text
from rlhf_pg.study.doctor.finding import Finding
from rlhf_pg.study.doctor.patient import Patient
from rlhf_pg.study.doctor.settings import DoctorConfig

WORDS = {"pass": "pass", "note": "note", "warn": "warn", "fail": "FAIL", "skipped": "skip"}
COLOURS = {
    "pass": "green", "note": "blue", "warn": "bold yellow", "fail": "bold red", "skipped": "dim",
}  # fmt: skip
WIDTH = 100


def show(patient: Patient, findings: list[Finding]) -> None:
    """Print the table, the remedies by how much they matter, and the summary."""
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    piped = not console.is_terminal
    console.print(Text(asked(patient), "bold"), soft_wrap=piped, width=width)
    console.print(table(findings, width, patient.config.explain))
    for status, title in (("fail", "To mend"), ("warn", "To look at"), ("note", "To know")):
        told = [f for f in findings if f.status == status and f.remedy]
        if told:
            console.print(Text(title, "bold"))
            console.print(_remedies(told, width))
    line = Text(summary(findings), "bold")
    if not patient.config.explain:
        line.append("   (--explain says what each check is for)", "not bold dim")
    console.print(line)


def asked(patient: Patient) -> str:
    """What was examined, in a line."""
    run, toward = patient.train, patient.spec or "no reward"
    return (
        f"{run.model} on {run.data} toward {toward}: {run.algorithm}, {run.rows} completions of at "
        f"most {run.max_new_tokens} tokens, temperature {run.temperature:g}, {patient.device.type}"
    )


def table(findings: list[Finding], width: int = WIDTH, explain: bool = False) -> Table:
    """A row for each finding under its group; a group that was left out whole is one row."""
    table = Table(box=None, width=width, padding=(0, 1), pad_edge=False)
    table.add_column("", width=4)
    table.add_column("check", no_wrap=True, style="bold", min_width=22)
    table.add_column("measured", ratio=1)
    table.add_column("limit", justify="right", style="dim", no_wrap=True)
    for group in dict.fromkeys(f.group for f in findings):
        table.add_row()
        table.add_row("", Text(group, "bold underline"))
        for finding in _folded([f for f in findings if f.group == group]):
            word = Text(WORDS[finding.status], COLOURS[finding.status])
            measured = Text(finding.measured, "dim" if finding.status == "skipped" else "")
            if explain and finding.meaning:
                measured = Text.assemble(measured, "\n", (finding.meaning, "dim italic"))
            table.add_row(word, Text(finding.name), measured, Text(finding.limit))
    table.add_row()
    return table


def _remedies(told: list[Finding], width: int) -> Table:
    """Which check, and what to do."""
    table = Table(box=None, width=width, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(width=4)
    table.add_column(no_wrap=True, min_width=22)
    table.add_column(ratio=1)
    for finding in told:
        word = Text(WORDS[finding.status], COLOURS[finding.status])
        name = Text(f"{finding.group}, {finding.name}", "bold")
        table.add_row(word, name, Text(finding.remedy))
    table.add_row()
    return table


def _folded(group: list[Finding]) -> list[Finding]:
    """Neighbours skipped for the same reason, as one row."""
    rows: list[Finding] = []
    runs: list[int] = []
    for finding in group:
        same = rows and finding.status == rows[-1].status == "skipped"
        if same and finding.measured == rows[-1].measured:
            runs[-1] += 1
            rows[-1] = Finding("skipped", finding.measured, name=f"{runs[-1]} checks")
        else:
            rows.append(finding)
            runs.append(1)
    return rows


def summary(findings: list[Finding]) -> str:
    """Counts: 30 pass, 2 warn, 1 FAIL, 5 notes, 0 skipped."""
    counts = Counter(finding.status for finding in findings)
    parts = [f"{counts['pass']} pass", f"{counts['warn']} warn", f"{counts['fail']} FAIL"]
    if counts["note"]:
        parts.append(f"{counts['note']} notes")
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped")
    return ", ".join(parts)


def write(config: DoctorConfig, findings: list[Finding]) -> Path:
    """doctor.json, in the folder `output` or as the file of that name."""
    path = Path(config.output or "")
    path = path if path.suffix == ".json" else path / "doctor.json"
    found: dict[str, Any] = {"config": asdict(config), "summary": summary(findings)}
    found["findings"] = [asdict(finding) for finding in findings]
    for row in found["findings"]:
        if row["value"] is not None and not math.isfinite(row["value"]):
            row["value"] = None  # JSON has no infinity; `measured` says it
    saved_text(path, json.dumps(found, indent=1, allow_nan=False) + "\n")
    console.print(f"written to {path}", markup=False)
    return path
