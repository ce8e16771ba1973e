"""When checkpoints are written, which are kept, and which one a run continues from."""

import signal
from functools import partial

import pytest
import torch

from rlhf_pg import checkpoint
from rlhf_pg.checkpoint import Checkpoints, Stopped, checkpoint_folders, newest


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("{}\n")
    return tmp_path


def state(iteration):
    return {"iteration": iteration, "weights": torch.full((3,), float(iteration))}


def write(run, *iterations):
    due = Checkpoints(run, every=1)
    for iteration in iterations:
        due.after(iteration, 99, partial(state, iteration))


def names(run):
    return [int(folder.name) for folder in checkpoint_folders(run)]


def test_the_last_two_are_kept_the_newest_first(run):
    write(run, 8, 9, 10)
    assert names(run) == [10, 9]
    assert newest(run)["iteration"] == 10 and newest(run)["weights"].tolist() == [10.0] * 3
    assert newest(run)["versions"] == checkpoint.versions()


def test_a_damaged_one_is_named_and_the_one_before_is_used(run, capsys):
    write(run, 3, 4)
    file = run / "checkpoints" / "000004" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert newest(run)["iteration"] == 3
    assert "000004 is damaged" in " ".join(capsys.readouterr().out.split())
    assert newest(run, quiet=True)["iteration"] == 3 and not capsys.readouterr().out
    (run / "checkpoints" / "000003" / "state.json").unlink()
    with pytest.raises(ValueError, match="no checkpoint of .* can be used: .*000004 is damaged"):
        newest(run, quiet=True)


def test_without_one_that_is_said(run):
    with pytest.raises(ValueError, match="has no checkpoints to resume from$"):
        newest(run)
    (run / "policy").mkdir()
    with pytest.raises(ValueError, match="to resume from: it is finished"):
        newest(run)


def test_the_automatic_interval_costs_a_twentieth_of_the_time(run, monkeypatch):
    now, written = [100.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def three_seconds_long(folder, state, write):
        written.append(int(folder.name))
        now[0] += 3.0

    monkeypatch.setattr(checkpoint, "save_state", three_seconds_long)
    due = Checkpoints(run)
    for second in range(101, 260):
        now[0] = max(now[0], float(second))
        due.after(second, 999, dict)
    # After ten seconds; it took three, so the next one is due 60 seconds after it was done.
    assert written == [110, 173, 236]


def test_none_is_written_where_none_is_wanted_until_it_stops(run):
    due = Checkpoints(run, every=0)
    due.after(1, 9, lambda: state(1))
    assert names(run) == []
    due.interrupted = True
    with pytest.raises(Stopped, match="continue with: .*resume"):
        due.after(2, 9, lambda: state(2))
    assert names(run) == [2]
    due.after(9, 9, lambda: state(9))  # the run is at its end: nothing is left to continue


def test_a_second_signal_stops_at_once(run):
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoints(run) as due, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
        assert due.interrupted
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_all_processes_stop_if_one_is_interrupted():
    """Those that write nothing learn of it from `any_process`, and take part in the state."""
    asked, taken = [], []
    other = Checkpoints(None, any_process=lambda value: asked.append(value) or len(asked) == 1)
    with pytest.raises(Stopped):
        other.after(1, 9, lambda: taken.append(1) or {})
    assert taken == [1] and asked == [False]


def test_a_run_whose_folder_was_removed_is_named(run):
    (run / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="was removed while it ran"):
        write(run, 1)
