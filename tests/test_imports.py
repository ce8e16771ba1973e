"""Imports run strictly downward, without circles, and options are cheap to import.

The rules are checked on the sources: nothing is imported here, except in the last tests, by
processes of their own.
"""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rlhf_pg.cli import COMMANDS

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("rlhf_pg/**/*.py"), *ROOT.glob("reward_models/**/*.py")])

# Which parts of the project a part may import, itself aside.
BELOW = {
    "reward_models": (),
    "rlhf_pg.core": (),
    "shared": ("reward_models",),
    "rlhf_pg.language": ("reward_models", "rlhf_pg.core", "shared"),
    "rlhf_pg.control": ("reward_models", "rlhf_pg.core", "shared"),
    "rlhf_pg.study": (
        "reward_models", "rlhf_pg.core", "shared", "rlhf_pg.language", "rlhf_pg.control",
    ),
    "commands": (
        "reward_models", "rlhf_pg.core", "shared", "rlhf_pg.language", "rlhf_pg.control",
        "rlhf_pg.study",
    ),
    "interface": ("reward_models", "rlhf_pg.core", "rlhf_pg.language", "rlhf_pg.control"),
    "cli": ("rlhf_pg.core", "shared", "rlhf_pg.language", "rlhf_pg.control", "rlhf_pg.study",
            "commands"),
}  # fmt: skip
MODULES = {  # the modules beside the packages
    "rlhf_pg": "interface",
    "rlhf_pg.chart": "shared",
    "rlhf_pg.checkpoint": "shared",
    "rlhf_pg.collapse": "shared",
    "rlhf_pg.memory": "shared",
    "rlhf_pg.progress": "shared",
    "rlhf_pg.reading": "shared",
    "rlhf_pg.runs": "shared",
    "rlhf_pg.trust": "shared",
    "rlhf_pg.chat": "commands",
    "rlhf_pg.cli": "cli",
    "rlhf_pg.commands": "commands",
    "rlhf_pg.demo": "commands",
    "rlhf_pg.demo_page": "commands",
    "rlhf_pg.label": "commands",
    "rlhf_pg.resume": "commands",
}
HEAVY = ("torch", "transformers", "numpy", "datasets", "accelerate", "gymnasium")


def module_of(path):
    """The dotted name of a source file; that of its folder for __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_of(path): path for path in SOURCES}


def part_of(module):
    """The package or group of modules that a module of this project belongs to."""
    if module in MODULES:
        return MODULES[module]
    return next((part for part in BELOW if within(module, part)), module)


def within(module, package):
    return module == package or module.startswith(package + ".")


def dotted(node):
    """a.b.c of an expression that is such a name, and nothing of any other."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path, at_import=False):
    """Every module that a file imports, relative names made whole.

    `from a import b` is a.b if that is a module of this project, else a. With `at_import`, those
    inside functions, and those for the type checker alone, are left out.
    """
    package = list(path.relative_to(ROOT).parent.parts)
    for node in run_at_import(parsed(path)) if at_import else ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            yield from sorted(inner & set(NAMES))
            if inner - set(NAMES):
                yield module
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def run_at_import(node):
    """The nodes whose code runs when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and dotted(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from run_at_import(child)


def circle(graph):
    """The modules of an import circle, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


# The rules


def test_every_module_has_its_place():
    assert "rlhf_pg.core.learner" in NAMES and "reward_models" in NAMES
    assert {part_of(module) for module in NAMES} == set(BELOW)
    assert not [module for module in MODULES if module not in NAMES]


def test_imports_run_downward():
    wrong = [
        f"{module} imports {imported}"
        for module, path in NAMES.items()
        for imported in imports(path)
        if within(imported, "rlhf_pg") or within(imported, "reward_models")
        if part_of(imported) not in (part_of(module), *BELOW[part_of(module)])
    ]
    assert not wrong


def test_there_are_no_import_circles():
    graph = {
        module: {name for name in imports(path, at_import=True) if name in NAMES} - {module}
        for module, path in NAMES.items()
    }
    assert sum(map(len, graph.values())) > 100
    assert circle(graph) is None


def test_the_core_imports_torch_and_the_standard_library_alone():
    outside = {
        name.split(".")[0]
        for module, path in NAMES.items()
        if within(module, "rlhf_pg.core")
        for name in imports(path)
    }
    assert outside - set(sys.stdlib_module_names) == {"torch", "rlhf_pg"}


def test_files_are_named_after_what_they_hold():
    assert not {path.stem for path in SOURCES} & {
        "utils", "util", "common", "base", "helpers", "helper", "misc",
    }  # fmt: skip


def test_nothing_is_unpickled():
    picklers = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    wrong = [
        f"{module} imports {name}"
        for module, path in NAMES.items()
        for name in imports(path)
        if any(within(name, pickler) for pickler in picklers)
    ]
    for module, path in NAMES.items():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                name = dotted(node.func)
                options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                unsafe = name == "torch.load" and options.get("weights_only") is not True
                pickled = name.split(".")[-1] in {"read_pickle", "to_pickle"}
                if unsafe or pickled or options.get("allow_pickle"):
                    wrong.append(f"{module} calls {name}")
    assert not wrong


# That the rules can fail


@pytest.mark.parametrize(
    ("source", "everywhere", "at_import"),
    [
        ("import a.b", {"a.b"}, {"a.b"}),
        ("from a import b", {"a"}, {"a"}),
        ("from rlhf_pg.core import kl", {"rlhf_pg.core.kl"}, {"rlhf_pg.core.kl"}),
        ("from rlhf_pg.core.kl import k1", {"rlhf_pg.core.kl"}, {"rlhf_pg.core.kl"}),
        ("from . import train", {"rlhf_pg.language.train"}, {"rlhf_pg.language.train"}),
        ("from ..core.kl import k1", {"rlhf_pg.core.kl"}, {"rlhf_pg.core.kl"}),
        ("def f():\n    import a", {"a"}, set()),
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}, {"a", "b"}),
        ("if TYPE_CHECKING:\n    import a", {"a"}, set()),
        ("importlib.import_module('a.b')", {"a.b"}, {"a.b"}),
    ],
)
def test_imports_are_read_from_a_source(source, everywhere, at_import, monkeypatch):
    path = ROOT / "rlhf_pg" / "language" / "new.py"
    monkeypatch.setattr(sys.modules[__name__], "parsed", lambda _: ast.parse(source))
    assert set(imports(path)) == everywhere
    assert set(imports(path, at_import=True)) == at_import


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


# What is imported when


def imported_by(code):
    """Heavy libraries that a new process has imported after `code`."""
    script = f"import sys\n{code}\nprint('heavy:', *({{*{HEAVY}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


OPTIONS = {command.config.split(":")[0] for command in COMMANDS.values()}


@pytest.mark.parametrize(
    "module", sorted({*OPTIONS, "reward_models.config", "rlhf_pg.core.algorithms"})
)
def test_options_are_imported_without_heavy_libraries(module):
    assert not imported_by(f"import {module}")


@pytest.mark.parametrize(
    "code",
    [
        "import rlhf_pg; dir(rlhf_pg)",
        "from rlhf_pg import TrainConfig, LearnerConfig, algorithm; algorithm('ppo')",
        "from rlhf_pg.cli import main; main(['--help'])",
        "from rlhf_pg.cli import main\ntry:\n    main(['train', '--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0",
    ],
    ids=["the package", "its options", "help", "help of a command"],
)
def test_what_needs_no_model_is_cheap(code):
    assert not imported_by(code)
