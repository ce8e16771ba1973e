"""Algorithms side by side, with the noise of their gradients at the same policy."""

import json

import pytest

from rlhf_pg.control.compare import CompareConfig, compare


def test_comparison_of_three(tmp_path):
    config = CompareConfig(
        algorithms=["reinforce", "reinforce-baseline", "actor-critic"],
        seeds=2,
        total_steps=1500,
        eval_interval=700,
        eval_episodes=4,
        gradient_batches=20,
        probe_steps=6000,
        output=str(tmp_path / "c"),
    )
    rows = {row.algorithm: row for row in compare(config)}
    noise = {name: row.gradient_noise for name, row in rows.items()}
    assert rows["reinforce"].gradient_variance > rows["reinforce-baseline"].gradient_variance
    assert noise["reinforce"] > noise["reinforce-baseline"]
    assert rows["reinforce-baseline"].gradient_cosine == pytest.approx(1)
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {"config.yaml", "table.md", "results.json", "curves.png"}
    saved = json.loads((tmp_path / "c" / "results.json").read_text())
    assert len(saved["runs"]["reinforce"]) == 2
    assert "| reinforce | 0/2 |" in (tmp_path / "c" / "table.md").read_text()


def test_bad_names_stop_it_before_anything_is_written(tmp_path):
    for values in ({"algorithms": ["pppo"]}, {"env": "Nowhere-v0"}, {"seeds": 0}):
        with pytest.raises(ValueError):
            compare(CompareConfig(**values, output=str(tmp_path / "c")))
    assert not (tmp_path / "c").exists()
