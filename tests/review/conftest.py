"""A run from tags to its report, of this version, whose pseudo-masks are reviewed over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

from maskwright.pipeline import run as pipeline
from maskwright.pipeline.review.server import Server
from maskwright.pipeline.review.work import open_review
from maskwright.recipe.load import load_recipe


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """`photos` and the run `tags` on them, finished."""
    folder = tmp_path_factory.mktemp("made")
    with zipfile.ZipFile(Path(__file__).parents[1] / "runs_before.zip") as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(("photos/", "tags/recipe"))])
    os.rename(folder / "tags/recipe.yaml", folder / "recipe.yaml")
    shutil.rmtree(folder / "tags")
    here = os.getcwd()
    os.chdir(folder)
    try:
        pipeline.run(load_recipe("recipe.yaml", []), say=lambda line: None)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def there(made, tmp_path, monkeypatch) -> Path:
    shutil.copytree(made, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


class Window:
    """What a browser does."""

    def __init__(self, address: str) -> None:
        _, _, self.host, self.token, _ = address.split("/")

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
        """A request for a path as it is."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            named = {"Host": self.host, **{key.replace("_", "-"): value for key, value in headers.items()}}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def get(self, asked: str) -> dict:
        status, _, content = self.send("GET", f"/{self.token}/{asked}")
        assert status == 200, content
        return json.loads(content)

    def save(self, number: int, **given) -> tuple[int, dict]:
        given = {"version": 0, "state": "accepted", "removed": [], "added": [], "painted": None, **given}
        path, kind = f"/{self.token}/save/{number}", "application/json"
        status, _, content = self.send("POST", path, json.dumps(given).encode(), Content_Type=kind)
        return status, json.loads(content)


@pytest.fixture
def review(there):
    return open_review(Path("tags"), [], 500)


@pytest.fixture
def window(review):
    """A window on the review of the run, while its server runs."""
    with Server(review, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Window(server.address)
        server.shutdown()
        thread.join()
