"""Shards in a store that speaks S3, where packages that pretend to be one are installed."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from maskwright.data import open_dataset
from maskwright.data.augment import Augment
from maskwright.data.loading import TrainingSet, make_loader
from maskwright.pipeline.shard import shard
from maskwright.settings import AugmentSettings, DataSettings

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
SECRETS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(monkeypatch):
    import boto3

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {**SECRETS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="photos")
    yield "s3://photos"
    server.stop()


def test_written_to_and_trained_from_a_bucket_by_any_number_of_workers(bucket, files):
    noise = np.random.default_rng(0)
    (files.root / "images").mkdir()
    for name in "abcdef":
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(files.root / f"images/{name}.png")
        files.mask(f"masks/{name}.png", [0, 1], (40, 40))
    settings = DataSettings(root=str(files.root), train="all", val="all")
    lines, left_out = shard(settings, f"{bucket}/deep/set", 2)
    assert (lines[0].startswith("all: 6 images in 3 shards"), left_out) == (True, [])
    assert "3 shards there already" in shard(settings, f"{bucket}/deep/set", 2)[0][-1]
    plain = open_dataset(settings, "all")
    packed = open_dataset(DataSettings(root=f"{bucket}/deep/set"), "all")

    def batches(dataset, workers: int) -> list[np.ndarray]:
        augment = Augment(AugmentSettings(crop=(32, 32)), dataset.labels)
        loader = make_loader(TrainingSet(dataset, augment, seed=1), 2, workers=workers)
        return [batch["image"].numpy() for _ in range(2) for batch in loader]

    expected = batches(plain, 0)
    for workers in (0, 2):  # in this process, and in some that take over what it had open
        for found, wanted in zip(batches(packed, workers), expected, strict=True):
            assert np.array_equal(found, wanted)
