"""The `rlhf-pg` command line: finds a command, parses its options, reports errors in one line."""

import argparse
import difflib
import importlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from rlhf_pg.core.options import check_options, flat, range_text

USAGE = """\
Usage: rlhf-pg COMMAND [OPTIONS]

Fine-tune a tiny language model toward a reward, exactly.
"""


@dataclass
class Command:
    """Where a command's options and function are; both are imported only when it is used."""

    help: str
    config: str  # module:Dataclass
    run: str  # module:function
    preset: str | None = None  # module:function of the fields named in preset_from
    preset_from: tuple[str, ...] = ()
    positional: str | None = None
    positional_help: str = "A run or a model."
    second: str | None = None  # another positional argument, after the first
    second_help: str = ""
    common: str = ""  # options that --help shows, if not all; --help-all shows the others too

    @property
    def positionals(self) -> dict[str, str]:
        """Options that are given by their place, in order, with their help."""
        both = {self.positional: self.positional_help, self.second: self.second_help}
        return {name: text for name, text in both.items() if name}


LANGUAGE = "rlhf_pg.language"
COMMANDS: dict[str, Command] = {
    "demo": Command(
        "RLHF on the shipped film notes from start to end, in about three minutes",
        f"{LANGUAGE}.config:DemoConfig",
        "rlhf_pg.demo:demo",
        preset=f"{LANGUAGE}.config:demo_preset",
        preset_from=("preset",),
    ),
    "finetune": Command(
        "train a language model on text; by default a tiny new one",
        f"{LANGUAGE}.config:FinetuneConfig",
        f"{LANGUAGE}.finetune:finetune",
        common="data model tokenizer width layers epochs batch_size lr seed output",
    ),
    "reward": Command(
        "train a reward model on pairs of a chosen and a rejected completion",
        f"{LANGUAGE}.config:RewardConfig",
        "rlhf_pg.commands:reward",
        common="data test model lora_rank device output learner.epochs learner.batch_size "
        "learner.lr",
    ),
    "label": Command(
        "judge pairs of completions yourself in the terminal, one key each",
        f"{LANGUAGE}.config:LabelConfig",
        "rlhf_pg.label:label",
    ),
    "train": Command(
        "fine-tune a language model toward a reward: reinforce ... ppo, rloo, grpo, dapo",
        f"{LANGUAGE}.config:TrainConfig",
        f"{LANGUAGE}.train:train",
        preset=f"{LANGUAGE}.config:preset",
        preset_from=("algorithm",),
        common="algorithm model reward data iterations rows samples_per_prompt max_new_tokens "
        "temperature kl_coef kl_target lora_rank eval_data eval_every track processes "
        "device seed output learner.lr",
    ),
    "resume": Command(
        "continue an interrupted run from its newest checkpoint",
        "rlhf_pg.resume:ResumeConfig",
        "rlhf_pg.resume:resume",
        positional="run",
        positional_help="Folder of the run.",
    ),
    "verify": Command(
        "repeat a run's last interval between checkpoints, and compare it bit for bit",
        "rlhf_pg.resume:VerifyConfig",
        "rlhf_pg.resume:verify",
        positional="run",
        positional_help="Folder of the run.",
    ),
    "sample": Command(
        "print completions of a model, with their scores",
        f"{LANGUAGE}.config:SampleConfig",
        "rlhf_pg.commands:sample",
        positional="model",
    ),
    "evaluate": Command(
        "measure a policy: reward, KL, win rate, best-of-n; of a control run, the score",
        f"{LANGUAGE}.config:EvaluateConfig",
        "rlhf_pg.commands:evaluate",
        positional="model",
        common="base reward data prompts samples_per_prompt best_of episodes greedy device seed "
        "output",
    ),
    "frontier": Command(
        "sweep the KL coefficient: reward against KL, beside best-of-n and the optimum",
        f"{LANGUAGE}.config:FrontierConfig",
        f"{LANGUAGE}.frontier:frontier",
        common="coefficients algorithm model reward data iterations rows best_of device seed "
        "output",
    ),
    "data show": Command(
        "show how a data source is read: its form, counts, lengths and three rows",
        f"{LANGUAGE}.config:DataShowConfig",
        f"{LANGUAGE}.data_show:show",
        positional="path",
        positional_help='A file, a folder, a hub name, or "film-notes".',
    ),
    "control": Command(
        "train the same learner on a Gymnasium environment",
        "rlhf_pg.control.config:ControlConfig",
        "rlhf_pg.control.train:train",
        preset="rlhf_pg.control.config:preset",
        preset_from=("algorithm", "env"),
        common="env algorithm total_steps environments rollout_steps threshold eval_episodes seed "
        "output learner.lr learner.gamma learner.lam",
    ),
    "compare": Command(
        "run several algorithms on one environment: curves, steps to solve it, gradient noise",
        "rlhf_pg.control.config:CompareConfig",
        "rlhf_pg.control.compare:compare",
    ),
    "watch": Command(
        "record a trained agent as an animated picture",
        "rlhf_pg.control.config:WatchConfig",
        "rlhf_pg.control.watch:watch",
        positional="run",
        positional_help="Folder of a control run.",
    ),
    "inspect": Command(
        "write a run's page: its curves, and every token's advantage beside the true one",
        "rlhf_pg.study.config:InspectConfig",
        "rlhf_pg.study.inspect:inspect",
        positional="run",
        positional_help="Folder of a run of `rlhf-pg train` or `rlhf-pg control`.",
        second="others",
        second_help="Folders of further runs: the page then lays all their curves over each other.",
    ),
    "doctor": Command(
        "check a model, its tokenizer, the data and the reward before training",
        "rlhf_pg.study.config:DoctorConfig",
        "rlhf_pg.study.doctor:main",
        preset="rlhf_pg.study.config:doctor_preset",
        preset_from=("algorithm", "model"),
        positional="model",
        positional_help="Initial policy: a run, a folder, or a hub name.",
        common="algorithm reward data max_new_tokens temperature kl_coef explain trust learner.lr",
    ),
    "study oracle": Command(
        "exact results for an enumerable task: J, its gradient, V, Q, A, the optimum",
        "rlhf_pg.study.config:OracleConfig",
        "rlhf_pg.study.oracle_command:main",
    ),
    "study estimators": Command(
        "bias and variance of every gradient estimator at one policy",
        "rlhf_pg.study.config:EstimatorsConfig",
        "rlhf_pg.study.estimators.command:main",
    ),
    "study credit": Command(
        "every token's advantage beside the true one; or what a reward model pays for",
        "rlhf_pg.study.config:CreditConfig",
        "rlhf_pg.study.credit:credit",
        positional="run",
        positional_help="Folder of a run of `rlhf-pg train`, or of a reward model.",
    ),
    "study bugs": Command(
        "what known silent bugs do to the gradient and to learning, each beside the right code",
        "rlhf_pg.study.config:BugsConfig",
        "rlhf_pg.study.bugs.command:main",
        positional="bug",
        positional_help="The name of one, or all.",
    ),
    "study playground": Command(
        "write a page on which small policies learn before your eyes",
        "rlhf_pg.study.config:PlaygroundConfig",
        "rlhf_pg.study.playground:main",
    ),
    "study examples": Command(
        "work through small examples of the theory in numbers",
        "rlhf_pg.study.config:ExamplesConfig",
        "rlhf_pg.study.examples:main",
        positional="example",
        positional_help="softmax-step, bernoulli-bandit, two-step-td, reward-to-go, gae, "
        "rock-paper-scissors, or all.",
    ),
    "study exercise": Command(
        "write a function of the theory yourself, and have it graded exactly",
        "rlhf_pg.study.config:ExerciseConfig",
        "rlhf_pg.study.exercises.command:main",
        positional="name",
        positional_help="The function to write. Default: list all exercises.",
        second="file",
        second_help="Your solution, whose code is run. Default: write a template, NAME.py.",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 on success, 2 for wrong input, 130 after an interrupt, 141 if what
    reads the output has ended, as `head` does.

    A command may exit with another code: the doctor with 1 if a check failed.
    """
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()  # here, where an error can still be caught
    except BrokenPipeError:
        # Python flushes once more when it ends, and would report the error then.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 141


def _main(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("rlhf-pg"))
        return 0
    group = _group(arguments[0])
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(overview(group))
        return 0
    try:
        words = 2 if group else 1
        name = " ".join(arguments[:words])
        if name not in COMMANDS:
            known = list(group or COMMANDS)
            raise ValueError(
                f"unknown command {name!r}{_suggest(name, known)}: use one of {', '.join(known)}"
            )
        command = COMMANDS[name]
        config = read_config(name, command, arguments[words:])
        find(command.run)(config)
        return 0
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        from rlhf_pg.progress import command as spelt
        from rlhf_pg.progress import plain

        line = " ".join(str(error).split()) or type(error).__name__
        line = line.replace("`rlhf-pg ", f"`{spelt()} ")  # hints work when pasted
        print(f"rlhf-pg: {plain(line)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from rlhf_pg.memory import out_of_memory

        message = out_of_memory(error, arguments[0])
        if debug or message is None:
            raise
        print(f"rlhf-pg: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if debug:
            raise
        text = str(stopped) or "stopped; the run folder keeps what was written so far"
        print(f"\nrlhf-pg: {text}", file=sys.stderr)
        return 130


def _group(word: str) -> dict[str, Command]:
    """The commands whose names begin with this word and have a second one."""
    return {name: command for name, command in COMMANDS.items() if name.startswith(f"{word} ")}


def overview(commands: Mapping[str, Command] = COMMANDS) -> str:
    """All commands, or these, with what they do, as wide as the terminal."""
    width = max(map(len, commands)) + 4
    columns = max(width + 20, shutil.get_terminal_size((200, 24)).columns)
    lines = [
        textwrap.fill(
            command.help,
            columns,
            initial_indent=f"  {name}".ljust(width),
            subsequent_indent=" " * width,
        )
        for name, command in commands.items()
    ]
    return "\n".join(
        [
            USAGE,
            *lines,
            "",
            "`rlhf-pg COMMAND --help` lists a command's options with their usual ranges;",
            "where it has many, --help-all lists those that are seldom needed too;",
            "every command also takes --config FILE.yaml, and --debug for a full traceback.",
        ]
    )


def find(place: str) -> Any:
    """The object at "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def read_config(name: str, command: Command, arguments: Sequence[str]) -> Any:
    """The command's dataclass from presets, --config files and options; later ones win.

    A preset (an algorithm's settings) replaces the defaults, so options are parsed twice: once to
    find which preset is meant, and once on top of it.
    """
    config_class = find(command.config)
    every = "--help-all" in arguments
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    arguments = _with_underscores(arguments, config_class)
    _check_files(config_class, arguments)
    parser = build_parser(name, command, config_class, every)
    if command.preset:
        options = _parse(parser, name, [a for a in arguments if a not in ("-h", "--help")])
        for key in command.preset_from:
            if not isinstance(options[key], str):
                raise ValueError(f"{key} must be text, not {options[key]!r}")
        chosen = find(command.preset)(*(options[key] for key in command.preset_from))
        values = {k: v for k, v in asdict(chosen).items() if k not in command.positionals}
        parser.set_defaults(flat(values))
    options = _parse(parser, name, arguments)
    check_options(options, config_class)  # before objects are made, to name "learner.lr" in full
    made = parser.instantiate(options)
    return config_class(**{f.name: made[f.name] for f in fields(config_class)})


def _with_underscores(arguments: Sequence[str], config_class: Any) -> list[str]:
    """The arguments with known options as they are spelt here: `--kl-coef` becomes `--kl_coef`."""
    known = {f"--{name}" for name in _ranges(config_class)}
    spelt = []
    for argument in arguments:
        option, given, value = argument.partition("=")
        name = option[:2] + option[2:].replace("-", "_")
        spelt.append(name + given + value if name in known else argument)
    return spelt


def _check_files(config_class: Any, arguments: Sequence[str]) -> None:
    """Raise ValueError, naming the file, for a YAML file that holds no options.

    A file may be given to --config and to a group of options, as in `--learner FILE.yaml`.
    """
    from rlhf_pg.reading import read_yaml  # imports rich and yaml; an overview needs neither

    groups = [item.name for item in fields(config_class) if is_dataclass(item.type)]
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        name, given, value = argument.partition("=")
        path = Path(value if given else after)
        if name not in ("--config", *(f"--{group}" for group in groups)) or not path.is_file():
            continue
        values = read_yaml(path)
        if "config" in values:
            raise ValueError(f"{path}: unknown option config")
        if name_of_class := _class_in(values):  # jsonargparse would import it
            raise ValueError(f"{path}: {name_of_class} names a class; options are values")
        for group in groups if name == "--config" else []:
            if not isinstance(values.get(group, {}), dict):
                raise ValueError(f"{path}: {group} must be options, not {values[group]!r}")


def _class_in(values: Any, key: str = "") -> str:
    """The first key of nested options whose value jsonargparse would import, or ""."""
    if key.rpartition(".")[2] == "class_path":
        return key
    if isinstance(values, list):
        return next(filter(None, (_class_in(value, key) for value in values)), "")
    if not isinstance(values, dict):
        return ""
    nested = (_class_in(value, f"{key}.{k}" if key else str(k)) for k, value in values.items())
    return next(filter(None, nested), "")


def build_parser(name: str, command: Command, config_class: Any, every: bool = True) -> Any:
    """A jsonargparse parser of the dataclass: its fields are options, their docstrings the help.

    The help shows `every` option, or those that most people need.
    """
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    place = "".join(f"[{name.upper()}] " for name in command.positionals)
    parser = jsonargparse.ArgumentParser(
        prog=f"rlhf-pg {name}",
        usage=f"rlhf-pg {name} {place}[OPTIONS]",
        description=command.help[0].upper() + command.help[1:] + ".",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="Read options from a YAML file.")
    parser.add_class_arguments(config_class, skip=set(command.positionals))
    defaults = config_class() if command.positionals else None
    for argument, about in command.positionals.items():
        default = getattr(defaults, argument)
        count = "*" if isinstance(default, list) else "?"
        parser.add_argument(argument, nargs=count, default=default, help=about)
    ranges = _ranges(config_class)
    for action in parser._actions:
        if text := ranges.get(action.dest):
            action.help = f"{(action.help or '').rstrip('.')}. {text[0].upper()}{text[1:]}."
    if command.common and not every:
        _shorten_help(parser, name, command, len(ranges) - len(command.positionals))
    return parser


def _shorten_help(parser: Any, name: str, command: Command, options: int) -> None:
    """Hide all but the command's common options in the help."""
    shown = {*command.common.split(), *command.positionals, "help", "config"}
    for action in parser._actions:
        if action.dest not in shown:
            action.help = argparse.SUPPRESS
    for group in parser._action_groups:
        group.description = None
    parser.epilog = f"All {options} options: rlhf-pg {name} --help-all"


def _ranges(kind: Any, prefix: str = "") -> dict[str, str]:
    """The ranges of a dataclass's options in words, by full name."""
    ranges: dict[str, str] = {}
    for item in fields(kind):
        if isinstance(item.type, type) and is_dataclass(item.type):
            ranges |= _ranges(item.type, f"{prefix}{item.name}.")
        else:
            ranges[prefix + item.name] = range_text(item.metadata)
    return ranges


def _parse(parser: Any, name: str, arguments: Sequence[str]) -> Any:
    """Parse options; raises ValueError, in one line, for those that cannot be parsed."""
    try:
        return parser.parse_args(_with_flags(parser, arguments))
    except argparse.ArgumentError as error:
        known = list(parser.get_defaults().keys())
        raise ValueError(_what_is_wrong(str(error), name, known)) from error


def _with_flags(parser: Any, arguments: Sequence[str]) -> list[str]:
    """The arguments with `--flag` written as `--flag=true` for bool options without a value.

    jsonargparse requires a value, and would otherwise take a positional argument after it.
    """
    defaults = parser.get_defaults()
    flags = {f"--{key}" for key, value in defaults.items() if isinstance(value, bool)}
    return [
        f"{argument}=true"
        if argument in flags and after.lower() not in ("true", "false", "yes", "no")
        else argument
        for argument, after in zip(arguments, [*arguments[1:], ""], strict=False)
    ]


def _what_is_wrong(text: str, name: str, known: list[str]) -> str:
    """jsonargparse's error about an option, shortened and in plain words."""
    text = " ".join(text.split())
    unknown = re.search(r"unrecognized arguments: ([^\s=]+)|Option '(.+?)' is not accepted", text)
    if unknown:
        option = unknown[1] or unknown[2]
        dashes = "--" if option.startswith("--") else ""  # none in a file
        near = _suggest(option, [dashes + name for name in known])
        every = "--help-all" if COMMANDS[name].common else "--help"
        return f"unknown option {option}{near}: `rlhf-pg {name} {every}` lists the options"
    text = re.sub(r'Parser key "([^"]+)":', r"--\1:", text)
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.+?)\] Errors: .* "
        r"Given value: (.*)",
        r"Expected a \1. Got value: \2",
        text,
    )
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[(.+?)\]", r"one of \1", text)
    return text.replace("Expected a ", "expected ").replace(". Got value:", ", got")


def _suggest(name: str, known: list[str]) -> str:
    """A hint at the nearest known name: one of a group with this last part, as learner.lr for lr,
    or else one spelt alike."""
    last = name.lstrip("-").replace("-", "_")
    near = [one for one in known if one.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


if __name__ == "__main__":
    sys.exit(main())
