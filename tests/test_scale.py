"""The measurement of very many images works on a few."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.scale import shard_index, shard_reading


def test_a_set_of_indices_is_opened_and_told(tmp_path):
    shard_index.write_set(tmp_path, 2)
    opened = shard_index.open_set(str(tmp_path))
    assert all(value >= 0 for key, value in opened.items() if key.endswith(("_s", "_us")))
    assert shard_index.list_paths(1000)["mb"] < 100
    lines = shard_index.table(2000, 2, {**opened, "disk_mb": 1.0}, {"mb": 4.0})
    assert "2,000 images in 2 shards" in "".join(lines)


def test_a_folder_is_packed_and_read_both_ways(tmp_path):
    noise = np.random.default_rng(0)
    for name in "abc":
        for kind, pixels in (
            ("images", noise.integers(0, 256, (40, 40, 3))),
            ("masks", noise.integers(0, 2, (40, 40))),
        ):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / f"{name}.png")
    lines = shard_reading.measure([str(tmp_path), "masks=masks"], str(tmp_path / "out"))
    assert [line.partition(" |")[0] for line in lines[2:4]] == ["| reading from the folder", "| reading from shards"]
