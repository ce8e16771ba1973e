"""Metrics reach accelerate's trackers: every line once, on the main process, also after a resume.

tensorboard and trackio are not installed here; a tracker of accelerate's own kind stands in.
"""

from pathlib import Path

import pytest
from accelerate import tracking as accelerates
from accelerate.utils import LoggerType

from rlhf_pg.checkpoint import Stopped
from rlhf_pg.cli import main
from rlhf_pg.language.config import preset
from rlhf_pg.language.tracking import check_installed
from rlhf_pg.language.train import resume, train
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, write_rows


@pytest.fixture
def opened(monkeypatch):
    """tensorboard's place is taken by a tracker that keeps what it is given."""

    class Opened(list):
        stop_at = None  # iteration at which the run is interrupted

    opened = Opened()

    class Kept(accelerates.GeneralTracker):
        name, requires_logging_directory = "tensorboard", True

        def __init__(self, project, folder, **options):
            super().__init__()
            self.place, self.options = f"{folder}/{project}", options
            self.lines, self.config, self.finished = [], None, False
            opened.append(self)

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            self.config = values

        def log(self, values, step=None, **_):
            assert not self.finished
            if step == opened.stop_at:
                raise KeyboardInterrupt
            self.lines.append((step, values))

        def finish(self):
            self.finished = True

    monkeypatch.setitem(accelerates.LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setattr(accelerates, "_available_trackers", [LoggerType.TENSORBOARD])
    return opened


@pytest.fixture
def config(base, tmp_path):
    config = preset("rloo")
    config.model, config.output, config.device = base, str(tmp_path / "run"), "cpu"
    config.data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    config.iterations, config.rows, config.max_new_tokens = 3, 4, 3
    config.reward, config.checkpoint_every, config.track = "length:target=4", 2, "tensorboard"
    return config


def test_the_tracker_gets_every_line_and_the_options(config, opened):
    run = train(config)
    (tracker,) = opened
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert tracker.lines == [(line["iteration"], line) for line in lines] and len(lines) == 3
    assert tracker.place == str(run.path / "tensorboard") and tracker.finished
    assert (tracker.config["learner.lr"], tracker.config["kl_target"]) == (5e-4, "null")
    assert tracker.options == {}


def test_a_resumed_run_continues_the_curves(config, opened):
    opened.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        train(config)
    (first,) = opened
    assert first.finished and len(first.lines) == 2  # however the run ends
    opened.stop_at = None
    resume(Path(config.output))
    second = opened[1]
    assert [step for step, _ in second.lines] == [3] and second.place == first.place
    assert second.options == {"purge_step": 3} and second.config is None


def test_what_is_repeated_to_verify_a_run_is_not_tracked_again(config, opened):
    with pytest.raises(Stopped):
        train(config, until=1)
    assert not opened


def test_a_missing_package_is_one_line_with_the_remedy(config, monkeypatch, capsys):
    monkeypatch.setattr(accelerates, "_available_trackers", [])
    assert main(["train", "--track", "trackio", "--model", config.model]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--track trackio needs the package trackio: pip install trackio" in line
    assert check_installed(None) is None
