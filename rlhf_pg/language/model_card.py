"""The model card of a trained policy: README.md in its folder, as the Hugging Face hub shows it."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf_pg.checkpoint import versions
from rlhf_pg.language.config import PYTHON_REWARD, TrainConfig, preset, train_config
from rlhf_pg.language.tracking import loggable
from rlhf_pg.progress import plain
from rlhf_pg.reading import METRICS_LINE, read_jsonl
from rlhf_pg.runs import METRICS, options_of

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
MEASURED = ("score", "gold", "kl", "eval_score", "eval_gold", "eval_kl")


def save_card(folder: Path, run: Path) -> None:
    """Write the card of a run's policy into the policy's folder."""
    (folder / "README.md").write_text(model_card(run), encoding="utf-8")


def model_card(run: Path) -> str:
    """The card of the policy of a run, with the metrics of the last iteration so far."""
    config = train_config(run)
    base = hub_base(config.model)
    header: dict[str, Any] = {"base_model": base} if base else {}
    header |= {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "rlhf-pg", config.algorithm],
    }
    rows = {
        "base model": config.model,
        "reward": config.reward,
        "algorithm": config.algorithm,
        "KL coefficient": config.kl_coef,
        "prompts": config.data,
        "sampling temperature": config.temperature,
        "longest completion, tokens": config.max_new_tokens,
    }
    table = "\n".join(f"| {name} | {_code(value)} |" for name, value in rows.items())
    how = "this command"
    if config.reward.startswith(PYTHON_REWARD):
        how = "`rlhf_pg.train` from Python, toward a function, with the options of this command"
    software = ", ".join(f"{name} {_code(value)}" for name, value in versions().items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {_code(run.name)}: a language model fine-tuned toward a reward

| | |
|---|---|
{table}

{_measured(run)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the hub
model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
```

Sample as in training, with `do_sample=True, top_k=0, temperature={config.temperature:g}`.

Trained by {how}, with {software}:

```
{shortened(command_of(config))}
```
"""


def hub_base(name: str) -> str | None:
    """The hub name of a model, or of the model that a folder or run here was trained from.

    None if there is none: the hub cannot link to a folder.
    """
    for _ in range(10):  # runs that were trained from each other
        if not Path(name).exists():
            return name if HUB_NAME.fullmatch(name) and not name.startswith("runs/") else None
        name = options_of(name).get("model") or ""
        if not name:
            break
    return None


def command_of(config: TrainConfig) -> str:
    """A command that repeats a run: its algorithm, and what differs from the algorithm's options.

    Raises ValueError for an unknown algorithm.
    """
    default = loggable(preset(config.algorithm))
    changed = {
        name: value
        for name, value in loggable(config).items()
        if value != default[name] and name not in ("algorithm", "output")
    }
    if config.reward.startswith(PYTHON_REWARD):
        del changed["reward"]
    words = ["rlhf-pg", "train", "--algorithm", config.algorithm]
    for name, value in changed.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def shortened(text: str) -> str:
    """Text without the names of the current folder and of the person's home, on one line."""
    for folder, name in ((str(Path.cwd()), ""), (os.path.expanduser("~"), "~/")):
        if folder != os.sep:
            text = text.replace(folder + os.sep, name)
    return plain(text)


def _measured(run: Path) -> str:
    """A table of what the last line of metrics.jsonl says."""
    file = run / "metrics.jsonl"
    lines = read_jsonl(file, METRICS_LINE) if file.is_file() else []
    last: Mapping[str, Any] = lines[-1] if lines else {}
    rows = [
        f"| {name} | {last[name]:.3f} | {_cell(METRICS[name])} |"
        for name in MEASURED
        if name in last
    ]
    head = f"| iteration {last.get('iteration', 0)} | | |\n|---|---|---|\n"
    return head + "\n".join(rows)


def _code(value: Any) -> str:
    """A value as code in a cell of a table, in which it cannot become markup."""
    return "`" + _cell(shortened(str(value)).replace("`", "'")) + "`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
