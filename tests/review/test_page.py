"""The page in a browser: what a person does there is what is kept."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data.decisions import read_decision

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None or os.name == "nt", reason="needs Chromium")]
SECONDS = 60


class Browser:
    """Chromium without a window, told what to do over two pipes (its DevTools protocol)."""

    def __init__(self, profile: Path, size: str) -> None:
        inside, self.out = os.pipe()
        self.into, outside = os.pipe()
        descriptors = f'exec 3<&{inside} 4>&{outside}; exec "$@"'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", f"--window-size={size}"]
        command = ["bash", "-c", descriptors, "bash", CHROMIUM, *flags, "--remote-debugging-pipe"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(inside, outside), stdout=quiet, stderr=quiet)
        os.close(inside), os.close(outside)
        self.number, self.session, self.left, self.events = 0, None, b"", []

    def tell(self, method: str, **given) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": given}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.into], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            self.left += os.read(self.into, 2**20)
        text, _, self.left = self.left.partition(b"\0")
        return json.loads(text)

    def open(self, address: str) -> None:
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.tell(f"{domain}.enable")
        self.tell("Page.navigate", url=address)

    def value(self, script: str):
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        end = time.monotonic() + SECONDS
        while not self.value(script):
            assert time.monotonic() < end, (script, self.value("document.body.innerText"))
            time.sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key)

    def drag(self, *points: tuple[float, float]) -> None:
        """Over the mask, in its pixels."""
        box = self.value(
            "(mask => (box => [box.left, box.top, box.width / mask.width])(mask.getBoundingClientRect()))"
            "(document.getElementById('mask'))"
        )
        places = [(box[0] + x * box[2], box[1] + y * box[2]) for x, y in points]
        for kind, (x, y) in [
            ("mousePressed", places[0]),
            *(("mouseMoved", place) for place in places),
            ("mouseReleased", places[-1]),
        ]:
            self.tell("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


@pytest.fixture
def browser(tmp_path):
    one = Browser(tmp_path / "profile", "1200,900")
    yield one
    one.process.kill()
    one.process.wait()
    os.close(one.out), os.close(one.into)


def test_a_person_reviews(there, window, browser):
    address = f"http://{window.host}/{window.token}/"
    names = [one["name"] for one in window.get("overview")["images"]]
    classes = window.get("overview")["classes"]
    browser.open(address)
    browser.wait("document.getElementById('name')?.textContent.includes('×')")
    assert names[0] in browser.value("document.getElementById('name').textContent")

    # Painted, saved as it goes, and without effect until it is accepted.
    value = 255
    browser.value("document.querySelector('#classes li:last-child button').click()")
    browser.value("document.getElementById('size').value = 60")
    browser.drag((4, 4), (28, 4))
    browser.wait("document.getElementById('status').textContent.startsWith('saved, version 1')")
    decision = read_decision(Path("tags/review"), names[0])
    assert (decision.state, decision.counts) == ("open", False)
    pseudo = np.array(Image.open(f"tags/pseudo_masks/SegmentationClass/{names[0]}.png"))
    painted = np.array(Image.open(f"tags/review/masks/{names[0]}.1.png"))
    assert (painted[4, 4:28] == value).all()
    assert np.array_equal(painted[8:], pseudo[8:])

    # Erased, taken back; a region filled; accepted.
    browser.press("e")
    browser.drag((4, 4), (28, 4))
    browser.press("z")
    browser.press("0")
    browser.press("g")
    browser.wait("!document.getElementById('edges').hidden")
    browser.drag((16, 24))
    browser.press("a")
    browser.wait(f"document.getElementById('name').textContent.includes({json.dumps(names[1])})")
    decision = read_decision(Path("tags/review"), names[0])
    assert decision.state == "accepted"
    after = np.array(Image.open(f"tags/review/masks/{names[0]}.{decision.version}.png"))
    assert (after[4, 4:28] == value).all()
    assert after[24, 16] == classes.index("background")

    # Rejected; tags; a window that is behind.
    browser.press("r")
    browser.wait(f"document.getElementById('name').textContent.includes({json.dumps(names[2])})")
    assert read_decision(Path("tags/review"), names[1]).state == "rejected"
    browser.value("document.querySelector('#classes input:checked').click()")
    browser.wait("document.getElementById('status').textContent.startsWith('saved, version 1')")
    assert len(read_decision(Path("tags/review"), names[2]).removed) == 1
    assert window.save(2, version=1, state="rejected")[0] == 200
    browser.press("a")
    browser.wait("document.getElementById('notice').textContent.includes('was saved as version 2 meanwhile')")
    assert read_decision(Path("tags/review"), names[2]).state == "rejected"
    browser.value("document.getElementById('reload').click()")
    browser.wait("document.getElementById('reject').getAttribute('aria-pressed') === 'true'")

    for event in browser.events:
        if event["method"] == "Network.requestWillBeSent":
            assert event["params"]["request"]["url"].startswith((address, "data:"))
        assert event["method"] != "Runtime.exceptionThrown", event
