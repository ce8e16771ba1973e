"""Folders and files are replaced whole or not at all."""

import os
import threading

import pytest

from reward_models import files
from reward_models.files import SIDECAR, reward_model_folder, saved_text, saved_whole


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """The atomic exchange of Linux, and the two renames used elsewhere."""
    if request.param == "renames":
        monkeypatch.setattr(files.sys, "platform", "darwin")
    return request.param


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "runs" / "policy"
    with saved_whole(folder) as temporary:
        (temporary / "weights").write_text("new")
        assert not folder.exists()
    assert (folder / "weights").read_text() == "new"
    assert names(tmp_path / "runs") == ["policy"]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_whole_folder_replaces_the_old_one_entirely(tmp_path, way):
    (tmp_path / "policy" / "inner").mkdir(parents=True)
    (tmp_path / "policy" / "stale").write_text("old")
    with saved_whole(tmp_path / "policy") as temporary:
        (temporary / "weights").write_text("new")
        assert names(tmp_path / "policy") == ["inner", "stale"]
    assert names(tmp_path / "policy") == ["weights"] and names(tmp_path) == ["policy"]


@pytest.mark.parametrize("old", [False, True])
def test_an_error_leaves_nothing_behind_and_the_old_folder_as_it_was(tmp_path, old, way):
    if old:
        (tmp_path / "policy").mkdir()
        (tmp_path / "policy" / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with saved_whole(tmp_path / "policy") as temporary:
            (temporary / "weights").write_text("half")
            raise KeyboardInterrupt
    assert names(tmp_path) == (["policy"] if old else [])
    assert not old or (tmp_path / "policy" / "weights").read_text() == "old"


def test_the_old_folder_is_put_back_if_the_second_rename_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(files.sys, "platform", "darwin")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "weights").write_text("old")
    rename = type(tmp_path).rename

    def fails(path, target):
        if path.name.startswith(".policy-") and not path.name.endswith(".old"):
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", fails)
    with pytest.raises(OSError, match="disk full"):
        with saved_whole(tmp_path / "policy") as temporary:
            (temporary / "weights").write_text("new")
    assert names(tmp_path) == ["policy"]
    assert (tmp_path / "policy" / "weights").read_text() == "old"


@pytest.mark.skipif(files.sys.platform != "linux", reason="the exchange is of Linux")
def test_a_reader_finds_a_whole_folder_at_every_instant(tmp_path):
    def save(text):
        with saved_whole(tmp_path / "policy") as temporary:
            (temporary / "weights").write_text(text)

    save("0")
    missing, done = [], threading.Event()

    def read():
        while not done.is_set():
            if not (tmp_path / "policy" / "weights").exists():
                missing.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(50):
        save(str(i))
    done.set()
    reader.join()
    assert not missing and names(tmp_path) == ["policy"]


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "policy").write_text("mine")
    with pytest.raises(NotADirectoryError, match="policy is a file"):
        with saved_whole(tmp_path / "policy"):
            pass
    assert (tmp_path / "policy").read_text() == "mine" and names(tmp_path) == ["policy"]


def test_a_link_to_a_folder_stays_a_link(tmp_path, way):
    (tmp_path / "disk" / "policy").mkdir(parents=True)
    (tmp_path / "policy").symlink_to(tmp_path / "disk" / "policy")
    with saved_whole(tmp_path / "policy") as temporary:
        (temporary / "weights").write_text("new")
    assert (tmp_path / "policy").is_symlink() and names(tmp_path / "policy") == ["weights"]
    assert names(tmp_path) == ["disk", "policy"] and names(tmp_path / "disk") == ["policy"]


def test_a_text_file_is_replaced_or_stays(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    saved_text(path, "é")
    saved_text(str(path), "two\n")
    assert path.read_text(encoding="utf-8") == "two\n" and names(path.parent) == ["a.json"]

    def no_disk(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", no_disk)
    with pytest.raises(OSError, match="no space"):
        saved_text(path, "three")
    assert path.read_text() == "two\n" and names(path.parent) == ["a.json"]


def test_a_reward_model_is_found_in_its_folder_and_in_its_run(tmp_path):
    inner = tmp_path / "run" / "reward_model"
    inner.mkdir(parents=True)
    assert reward_model_folder(tmp_path / "run") is None
    (inner / SIDECAR).write_text("{}")
    assert reward_model_folder(str(tmp_path / "run")) == reward_model_folder(inner) == inner
    assert reward_model_folder("nowhere") is None
