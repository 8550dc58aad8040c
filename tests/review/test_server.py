"""What the server of the review page answers, and above all what it does not."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.decisions import read_decision, read_decisions
from maskwright.errors import DataError, MaskwrightError
from maskwright.files import write_json
from maskwright.pipeline.review import server as server_module
from maskwright.pipeline.review.server import PAGES, Server
from maskwright.pipeline.review.work import mask_of, open_review, runs_of

JSON = {"Content_Type": "application/json"}


def test_the_page_and_what_it_loads_come_from_here_alone(window):
    for path, (_, kind) in PAGES.items():
        status, headers, content = window.send("GET", f"/{window.token}/{path}")
        assert (status, headers["Content-Type"]) == (200, kind)
        assert not re.findall(rb"(?:https?:)?//[\w.]+\.\w+/", content), path  # no address of another machine
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert not any(name.startswith("Access-Control") for name in headers)


def test_images_are_in_the_order_of_doubt_and_as_they_are(window, review):
    found = window.get("overview")
    shown = [window.get(f"shown/{number}") for number in range(len(found["images"]))]
    assert [one["name"] for one in shown] == [one["name"] for one in found["images"]]
    doubts = [one["doubt"] for one in shown]
    assert doubts == sorted(doubts, reverse=True)
    assert len(set(doubts)) > 1
    for number, one in enumerate(shown):
        mask = np.array(Image.open(f"tags/pseudo_masks/SegmentationClass/{one['name']}.png"))
        assert np.array_equal(mask_of(one["pseudo"], (one["height"], one["width"])), mask)
        status, headers, content = window.send("GET", f"/{window.token}/image/{number}")
        assert (status, headers["Content-Type"], content[:2]) == (200, "image/jpeg", b"\xff\xd8")


def test_of_many_masks_the_least_certain_are_shown(there, review):
    assert open_review(Path("tags"), [], 2).order == review.order[:2]


@pytest.mark.parametrize("token", ["", "x", "{token}x", "{half}", "%2e%2e", "{token}%00"])
def test_without_the_token_nothing_is_answered(window, token):
    token = token.format(token=window.token, half=window.token[:16])
    for path in (f"/{token}/", f"/{token}/overview", f"/{token}", f"/{token}/image/0"):
        status, _, content = window.send("GET", path)
        assert status == 403, path
        assert window.token.encode() not in content
    status, _, _ = window.send("POST", f"/{token}/save/0", b"{}", **JSON)
    assert status == 403
    assert not Path("tags/review").exists()


@pytest.mark.parametrize(
    "path",
    [
        "../../tags/recipe.yaml", "image/../../recipe.yaml", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
        "image//etc/passwd", "image/-1", "image/99999", "image/1e0", "image/0/", "image/", "image/%D9%A3",
        "shown/00.png", "page.html", "server.py", "image/0000000000000000000000001", "save/0",
    ],
)  # fmt: skip
def test_no_path_but_those_of_the_page(window, path):
    status, _, content = window.send("GET", f"/{window.token}/{path}")
    assert status == 404, content
    assert json.loads(content) == {"error": "there is no such page"}


@pytest.mark.parametrize(
    "host", ["example.org", "127.0.0.1.example.org", "localhost.example.org:80", "0.0.0.0", "", "127.0.0.1:x"]
)
def test_names_that_lead_here_from_elsewhere_are_refused(window, host):
    assert window.send("GET", f"/{window.token}/overview", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:80"])
def test_a_tunnel_may_have_another_port(window, host):
    assert window.send("GET", f"/{window.token}/overview", Host=host, Origin=f"http://{host}")[0] == 200


def test_other_sites_and_other_methods_are_refused(window):
    path = f"/{window.token}/save/0"
    assert window.send("POST", path, b"{}", Origin="http://example.org", **JSON)[0] == 403
    assert window.send("POST", path, b"{}", Origin="null", **JSON)[0] == 403
    assert window.send("POST", path, b"{}", Content_Type="text/plain")[0] == 415  # what a form can send
    for method in ("OPTIONS", "PUT", "DELETE", "HEAD"):
        assert window.send(method, path)[0] == 501
    assert not Path("tags/review").exists()


def test_it_listens_on_loopback_alone(review):
    with Server(review, 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        assert len(server.token) >= 32
        with Server(review, 0) as other:
            assert other.token != server.token
        with pytest.raises(MaskwrightError, match="give another port="):
            Server(review, server.server_port)
    with pytest.raises(MaskwrightError, match="port 70000 cannot be had"):
        Server(review, 70000)


def test_what_is_too_large_or_of_no_length_is_not_read(window, monkeypatch):
    monkeypatch.setattr(server_module, "MOST_BYTES", 1000)
    path = f"/{window.token}/save/0"
    assert window.send("POST", path, b" " * 1001, **JSON)[0] == 413
    assert window.send("POST", path, b"{}", Content_Length="-1", **JSON)[0] == 411
    with socket.create_connection(window.host.split(":"), timeout=10) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {window.host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"411"
    assert not Path("tags/review").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"state": "deleted"}, "a state among open, accepted, rejected"),
        ({"version": "0"}, "expected a version"),
        ({"version": True}, "expected a version"),
        ({"removed": ["../x"]}, "removed: expected a list of classes"),
        ({"added": "cat"}, "added: expected a list of classes"),
        ({"painted": [0, 1023]}, "32 x 32 = 1024 pixels, found 1023"),
        ({"painted": [0, 10**30]}, "counts 1 to 1024"),
        ({"painted": [256, 1024]}, "values 0 to 255"),
        ({"painted": [200, 1024]}, "a value that is no class"),
        ({"painted": [0, 512, 0]}, "a list of value, count"),
        ({"painted": [0.5, 1024]}, "a list of value, count"),
        ({"painted": [0, -1, 0, 1025]}, "counts 1 to 1024"),
        ({"painted": {"0": 1024}}, "a list of value, count"),
    ],
)
def test_what_is_no_decision_is_refused_in_words(window, given, said):
    status, answer = window.save(0, **given)
    assert (status, said in answer["error"]) == (400, True), answer
    assert not Path("tags/review").exists()


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b"\xff", b"null", b"[" * 100_000])
def test_what_is_no_json_is_refused(window, body):
    assert window.send("POST", f"/{window.token}/save/0", body, **JSON)[0] == 400


def test_a_decision_is_on_the_disk_when_it_is_answered(window):
    name = window.get("shown/0")["name"]
    status, kept = window.save(0, painted=[1, 500, 255, 24, 0, 500])
    assert (status, kept["version"], kept["state"]) == (200, 1, "accepted")
    decision = read_decision(Path("tags/review"), name)
    assert (decision.version, decision.who, decision.when) == (1, kept["who"], kept["when"])
    with Image.open(f"tags/review/masks/{name}.1.png") as picture:
        assert (picture.mode, picture.size) == ("P", (32, 32))
        assert np.array(picture).ravel().tolist() == [1] * 500 + [255] * 24 + [0] * 500
    assert window.get("overview")["images"][0] == {"name": name, "state": "accepted"}
    shown = window.get("shown/0")
    assert (shown["painted"], shown["version"]) == ([1, 500, 255, 24, 0, 500], 1)
    assert window.save(0, version=1, state="rejected")[1]["version"] == 2
    assert [path.name for path in Path("tags/review/masks").iterdir()] == []  # the mask went with its version
    assert read_decision(Path("tags/review"), name).state == "rejected"


def test_an_older_version_does_not_write_over_a_newer_one(window):
    assert window.save(0, painted=[1, 1024])[0] == 200
    status, answer = window.save(0, painted=[0, 1024])
    assert (status, "was saved as version 1 meanwhile" in answer["error"]) == (409, True)
    assert window.get("shown/0")["painted"] == [1, 1024]
    assert window.save(0, version=1, painted=[0, 1024])[1]["version"] == 2


def test_a_mask_that_was_not_changed_is_not_kept(window):
    assert window.save(0, painted=window.get("shown/0")["pseudo"])[0] == 200
    assert window.get("shown/0")["painted"] is None
    assert not any(said.counts for said in read_decisions(Path("tags/review")).values())


def test_what_is_decided_already_comes_last(window, review):
    window.save(0)
    window.save(2, state="open", painted=[1, 1024])
    again = open_review(Path("tags"), [], 500)
    assert again.order == [*review.order[1:], review.order[0]]


def test_a_disk_that_is_full_is_said_and_the_page_lives_on(window, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("maskwright.pipeline.review.work.write_decision", full)
        status, answer = window.save(0)
    assert (status, "No space left" in answer["error"]) == (500, True)
    assert window.save(0)[0] == 200


def test_a_damaged_record_names_its_file(window):
    window.save(0)
    name = window.get("shown/0")["name"]
    path = Path(f"tags/review/decisions/{name}.json")
    write_json(path, {"name": name, "state": "perhaps"})
    status, _, content = window.send("GET", f"/{window.token}/shown/0")
    assert status == 400
    assert path.name in json.loads(content)["error"]


def test_runs_are_the_masks():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.integers(0, 3, rng.integers(1, 9, 2)).astype(np.uint8)
        assert np.array_equal(mask_of(runs_of(mask), mask.shape), mask)


def test_a_run_without_pseudo_masks_is_refused(there):
    with pytest.raises(DataError, match="not a run folder"):
        open_review(there / "photos", [], 5)
    (there / "tags/pseudo_masks/scores.json").unlink()  # as where labelling was stopped
    with pytest.raises(DataError, match="has no pseudo-masks to review; make them first"):
        open_review(Path("tags"), [], 5)


def test_images_that_moved_are_named_by_data(there):
    (there / "photos").rename(there / "moved")
    with pytest.raises(DataError, match="say where they are now: data=FOLDER"):
        open_review(Path("tags"), [], 5)
    assert len(open_review(Path("tags"), ["data=moved"], 5).image(0)) > 100


def test_the_command_prints_the_address_saves_and_ends(there, window):
    command = [sys.executable, "-m", "maskwright", "review", "tags"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline().strip() for _ in range(2)]
            assert "masks, the least certain first" in lines[0]
            assert type(window)(lines[1]).save(0, state="rejected")[0] == 200
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()
    assert [said.state for said in read_decisions(Path("tags/review")).values()] == ["rejected"]
