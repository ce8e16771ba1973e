"""The house has floors: imports run strictly downward. Read from the sources, nothing is run."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("rlhf_pg/**/*.py"), *ROOT.glob("reward_models/**/*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

FORBIDDEN = {
    "rlhf_pg/language/": ("rlhf_pg.control", "rlhf_pg.study"),
    "rlhf_pg/control/": ("rlhf_pg.language", "rlhf_pg.study"),
    "rlhf_pg/runs.py": ("rlhf_pg.language", "rlhf_pg.control", "rlhf_pg.study"),
    "reward_models/": ("rlhf_pg",),
}

JOINING = ("rlhf_pg/cli.py", "rlhf_pg/commands.py", "rlhf_pg/study_commands.py")


def imports(path):
    """Every module a file imports, wherever in it, with relative names made whole."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def dotted(node):
    """a.b.c of an expression that is such a name, and nothing of any other."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def within(module, package):
    return module == package or module.startswith(package + ".")


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield dotted(node.func), {k.arg: getattr(k.value, "value", None) for k in node.keywords}


def test_there_is_something_to_read():
    assert "rlhf_pg/core/learner.py" in NAMES and "reward_models/__init__.py" in NAMES


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_imports_run_downward(path):
    name = str(path.relative_to(ROOT))
    for floor, above in FORBIDDEN.items():
        if name.startswith(floor):
            wrong = [m for m in imports(path) if any(within(m, package) for package in above)]
            assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_the_core_imports_torch_and_the_standard_library_alone(path):
    if "core" in path.parts:
        for module in imports(path):
            allowed = within(module, "torch") or within(module, "rlhf_pg.core")
            assert allowed or module.split(".")[0] in sys.stdlib_module_names, module


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_only_the_command_line_knows_both_packages_and_nothing_knows_the_command_line(path):
    name = str(path.relative_to(ROOT))
    modules = list(imports(path))
    if name.startswith("rlhf_pg/") and name not in JOINING:
        assert not [m for m in modules if within(m, "reward_models")]
    if name != "rlhf_pg/__main__.py":
        assert not [m for m in modules if within(m, "rlhf_pg.cli")]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_files_are_named_after_what_they_hold(path):
    assert path.stem not in {"utils", "util", "common", "base", "helpers", "helper", "misc"}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_is_unpickled(path):
    picklers = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    assert not [m for m in imports(path) if any(within(m, pickler) for pickler in picklers)]
    for name, arguments in calls(path):
        if name == "torch.load":
            assert arguments.get("weights_only") is True
        assert name.split(".")[-1] not in {"read_pickle", "to_pickle"}
        assert not arguments.get("allow_pickle")
