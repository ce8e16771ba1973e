"""Which run folders the person at this computer made, and what the others may load.

A secret in the person's state folder signs config.yaml when a run is made, as Jupyter signs
notebooks. A run without their signature may be anybody's, so code, hub names and paths outside its
folder that its config.yaml names are refused unless the person passes --trust.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reward_models.loading import Reference, reference_to, references
from reward_models.rules import FILM_NOTES

CONFIG, SIGNATURE = "config.yaml", "config.signature"
SECRET_BYTES = 32
# Options of a run that name something to load, by how they are spelt: rewards; or a folder, file or
# hub name.
REWARDS = ("reward", "gold")
PLACES = ("model", "base", "reference", "critic_from", "data", "test", "eval_data")


def sign(run: Path) -> None:
    """Write the signature of a run's config.yaml; without a writable state folder, none."""
    try:
        (run / SIGNATURE).write_text(_signature(run, _secret(create=True)) + "\n")
    except (OSError, RuntimeError):  # RuntimeError: the person has no home folder
        (run / SIGNATURE).unlink(missing_ok=True)


def is_signed(run: Path) -> bool:
    """Return whether config.yaml is as this person's `sign` left it.

    A config.yaml that names code otherwise than by a file's absolute path counts only in the folder
    that the run was started from, since such names are looked up there.
    """
    try:
        stored = (run / SIGNATURE).read_bytes().strip()
        return hmac.compare_digest(stored, _signature(run, _secret()).encode())
    except (OSError, RuntimeError):
        return False


def check(
    run: Path, options: Mapping[str, Any], trust: bool = False, flags: Sequence[str] = ()
) -> None:
    """Raise ValueError if a run of unknown origin names something to load from outside its folder.

    `options` are those values of its config.yaml that are to be loaded; None and names of other
    options are ignored. `flags` are the options by which the person can name their own.
    """
    if trust or is_signed(run):
        return
    named = [*_named(options), *_links(run)]
    outside = [(option, ref) for option, ref in named if not _is_inside(run, ref)]
    if not outside:
        return
    things = ", ".join(f"{option} {ref.name} ({ref.kind})" for option, ref in outside)
    own = [f"--{option}" for option in dict.fromkeys(option for option, _ in outside)]
    own = [flag for flag in own if flag.removeprefix("--") in flags]
    why = "is not what you signed here" if (run / SIGNATURE).exists() else "is not signed by you"
    instead = f", or name your own with {' and '.join(own)}" if own else ""
    raise ValueError(
        f"{run} is of unknown origin: its {CONFIG} {why}, and names {things}. If you know who made "
        f"it and what these hold, add --trust{instead}"
    )


def _named(options: Mapping[str, Any]) -> Iterator[tuple[str, Reference]]:
    """What options refer to, with the name of the option; shipped data and rules are left out."""
    for option, value in options.items():
        if value is None:
            continue
        if option in REWARDS:
            yield from ((option, reference) for reference in references(value))
        elif option in PLACES and value != FILM_NOTES:
            yield option, reference_to(str(value))
        elif option == "env" and ":" in str(value):
            yield option, Reference("code", str(value))
        elif option == "env_options":
            # An environment may open what its arguments name, or import it: "module:Id".
            strange = (text for text in _texts(value) if set(text) & set(":/\\~"))
            yield from ((option, Reference("code", text)) for text in strange)


def _links(run: Path) -> Iterator[tuple[str, Reference]]:
    """Symbolic links in the folder: what is written to one would change a file elsewhere."""
    for folder, folders, files in os.walk(run):
        for path in (Path(folder, name) for name in folders + files):
            if path.is_symlink():
                yield "the link", Reference("path", str(path))


def _texts(value: Any) -> Iterator[str]:
    """All text in nested lists and mappings, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _is_inside(run: Path, reference: Reference) -> bool:
    """Whether a reference is data in the run's own folder, symbolic links resolved."""
    if reference.kind != "path":
        return False
    return Path(reference.name).expanduser().resolve().is_relative_to(run.resolve())


def _signature(run: Path, secret: bytes) -> str:
    """HMAC-SHA256 of config.yaml and, if it names code by no absolute path, the current folder."""
    content = (run / CONFIG).read_bytes()
    return hmac.new(secret, content + b"\0" + _place(content), hashlib.sha256).hexdigest()


def _place(content: bytes) -> bytes:
    try:
        options = yaml.safe_load(content)
        named = list(_named(options)) if isinstance(options, Mapping) else []
        if all(reference.kind != "code" or _is_absolute(reference) for _, reference in named):
            return b""
    except (yaml.YAMLError, ValueError, OSError):
        pass  # what cannot be parsed may name code
    return os.fsencode(Path.cwd())


def _is_absolute(code: Reference) -> bool:
    """Whether code is the function of a file that is the same wherever one is."""
    file = code.name.rpartition(":")[0]
    return file.endswith(".py") and os.path.isabs(file)


def _secret(create: bool = False) -> bytes:
    """The person's secret, made on first use; raises OSError if it cannot be read or written."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    path = folder / "rlhf_pg" / "secret"
    if create and not (path.is_file() and path.stat().st_size == SECRET_BYTES):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # cut short by a full disk
        # A link appears whole, and fails if another process was first. Such files are 0600.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise OSError(f"{path} is damaged")
    return secret
