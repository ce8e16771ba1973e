"""Atomic writes of folders and text files, and where a run keeps its reward model.

A reader sees the old content or the new one and never a part of it, also after a crash.
Linux and macOS.
"""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

SIDECAR = "reward_model.json"  # beside the weights of every trained reward model


@contextmanager
def saved_whole(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `folder`, which replaces it if the block raises nothing.

    On Linux the replacement is one atomic exchange. Elsewhere it is two renames, and `folder` is
    absent for the moment between them. Raises NotADirectoryError if `folder` is a file, OSError if
    it cannot be written.
    """
    folder = Path(folder).resolve()  # through a symbolic link: its target is replaced
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        try:
            yield temporary
        except SafetensorError as error:  # a full disk, above all
            raise OSError(f"cannot write {folder}: {error}") from error
        temporary.chmod(0o755)  # mkdtemp's folders are private
        # The data must be on the disk before the rename is: a crash may keep only the rename.
        for path in [*temporary.rglob("*"), temporary]:
            _flush(path)
        if not folder.exists():
            temporary.rename(folder)
        elif not _exchange(temporary, folder):
            _replace_by_renames(temporary, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # after an exchange: the old folder


def saved_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; an older file is replaced, missing folders are made.

    A symbolic link is replaced too: one in a folder from somebody else may name any file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def reward_model_folder(name: str | Path) -> Path | None:
    """Return the folder of a trained reward model, given that folder or its run's; else None."""
    folder = Path(name).expanduser()
    for candidate in (folder / "reward_model", folder):
        if (candidate / SIDECAR).is_file():
            return candidate
    return None


def _flush(path: Path) -> None:
    """Have the operating system write a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths atomically (renameat2, Linux); False where the system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename is None:
        return False
    return bool(rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _replace_by_renames(new: Path, folder: Path) -> None:
    """Rename `folder` aside and `new` to `folder`; the old one is put back if that fails."""
    old = new.with_name(new.name + ".old")
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
