"""The measurement of very many images works on a few."""

from __future__ import annotations

from benchmarks.scale import shard_index


def test_a_set_of_indices_is_opened_and_told(tmp_path):
    shard_index.write_set(tmp_path, 2)
    opened = shard_index.open_set(str(tmp_path))
    assert all(value >= 0 for key, value in opened.items() if key.endswith(("_s", "_us")))
    assert shard_index.list_paths(1000)["mb"] < 100
    lines = shard_index.table(2000, 2, {**opened, "disk_mb": 1.0}, {"mb": 4.0})
    assert "2,000 images in 2 shards" in "".join(lines)
