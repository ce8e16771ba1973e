"""macOS and Windows: every module imports without what only Linux has, and MPS is not used."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from reward_models.pretrained import usable_device
from rlhf_pg.language.config import EvaluateConfig, preset
from rlhf_pg.language.evaluate import open_bench
from rlhf_pg.language.train import Trainer
from support.language import PROMPTS, count_good, write_rows

ROOT = Path(__file__).parents[1]
IMPORT_ALL = """
import builtins, importlib, pkgutil
real = builtins.__import__
def without(name, globals=None, *more, **named):  # for this project; libraries have their own ways
    ours = str((globals or {}).get("__name__")).split(".")[0] in ("rlhf_pg", "reward_models")
    if ours and name in ("fcntl", "resource", "termios", "tty", "pwd", "grp"):
        raise ImportError(f"{globals['__name__']} imports {name}")
    return real(name, globals, *more, **named)
builtins.__import__ = without
import reward_models, rlhf_pg
count = 0
for package in (reward_models, rlhf_pg):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        count += 1
print(count)
"""


def test_every_module_imports_without_what_only_linux_has():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]
    sources = [p for name in ("rlhf_pg", "reward_models") for p in (ROOT / name).rglob("*.py")]
    assert int(done.stdout.split()[-1]) == len(sources) - 2  # the two packages themselves


@pytest.fixture
def mac(monkeypatch):
    """A machine with MPS and without CUDA."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_auto_takes_cuda_only(mac, base, tmp_path):
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    assert usable_device().type == "cpu"
    options = {"base": base, "data": prompts, "max_new_tokens": 4, "temperature": 1.0}
    _, policy, _ = open_bench(EvaluateConfig(model=base, **options), {})
    assert next(policy.parameters()).device.type == "cpu"
    config = preset("rloo")
    config.model, config.data, config.max_new_tokens = base, prompts, 4
    assert config.device == "auto"
    assert Trainer(config, count_good).accelerator.device.type == "cpu"
