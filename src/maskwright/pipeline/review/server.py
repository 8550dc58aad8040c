"""The server of the review page: loopback alone, a secret in the address, and nothing served but what is listed here.

Python's own `http.server` is enough for one person on one machine and adds no dependency; what it leaves open is closed
here. A request is answered only if it comes to a loopback name (so that no name of a web site that points to this
machine works), begins with the token of this start, and asks for one of few paths; images go by their number in the
run's own list, so no path of a URL ever meets the disk. What is sent must be JSON, of a stated and limited length.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socketserver
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from maskwright.data.decisions import Older, saved
from maskwright.errors import MaskwrightError
from maskwright.pipeline.review.work import Review

HOST = "127.0.0.1"
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
MOST_BYTES = 32 * 2**20  # of what is sent
SECONDS = 30  # that a connection may be silent
PAGES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "paint.js": ("paint.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves one review.

    Args:
        review: what is reviewed.
        port: to listen on; 0 for any that is free.

    Raises:
        MaskwrightError: the port is taken.
    """

    allow_reuse_address = os.name != "nt"  # where it would let another program take the port over

    def __init__(self, review: Review, port: int) -> None:
        self.review, self.token = review, secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise MaskwrightError(f"port {port} cannot be had ({error}); give another port=, or none") from None

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the network for this machine's name
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):  # a window was closed
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        why: told to the page.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "maskwright", ""
    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is printed: the address holds the token."""

    def _answer(self, work: Callable[[str], tuple[bytes, str]]) -> None:
        status = 200
        try:
            content, kind = work(self._asked())
        except Refused as refused:
            status, (content, kind) = refused.status, _json({"error": str(refused)})
        except Older as error:
            status, (content, kind) = 409, _json({"error": str(error)})
        except MaskwrightError as error:
            status, (content, kind) = 400, _json({"error": str(error)})
        except OSError as error:  # a disk that is full, a file that is gone
            status, (content, kind) = 500, _json({"error": str(error)})
        if status != 200:
            self.close_connection = True  # what was sent with it may not have been read
        self.send_response(status)
        for key, value in HEADERS.items():
            self.send_header(key, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _asked(self) -> str:
        """What the path says behind the token."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not LOOPBACK.fullmatch(hosts[0]):
            raise Refused(403, "expected a loopback name as Host")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise Refused(403, "another site asks")
        _, token, asked = [*self.path.partition("?")[0].split("/", 2), "", ""][:3]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()) or self.path.count("/") < 2:
            raise Refused(403, "expected the address that maskwright review printed, with its token and a / at the end")
        return asked

    def _get(self, asked: str) -> tuple[bytes, str]:
        review = self.server.review
        if asked in PAGES:
            name, kind = PAGES[asked]
            return Path(__file__).with_name(name).read_bytes(), kind
        if asked == "overview":
            return _json(review.overview())
        if (number := self._number(asked, "image")) is not None:
            return review.image(number), "image/jpeg"
        for what, found in (("shown", review.shown), ("regions", review.regions)):
            if (number := self._number(asked, what)) is not None:
                return _json(found(number))
        raise Refused(404, "there is no such page")

    def _post(self, asked: str) -> tuple[bytes, str]:
        number = self._number(asked, "save")
        if number is None:
            raise Refused(404, "there is no such page")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "expected JSON")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,12}", length):
            raise Refused(411, "expected a Content-Length")
        if int(length) > MOST_BYTES:
            raise Refused(413, f"{length} bytes are more than {MOST_BYTES}")
        sent = self.rfile.read(int(length))
        try:
            given = json.loads(sent)
        except (ValueError, RecursionError):
            raise Refused(400, "what was sent is not JSON") from None
        return _json(self.server.review.save(number, given))

    def _number(self, asked: str, what: str) -> int | None:
        """The image that `WHAT/NUMBER` is about; None where something else was asked for."""
        found = re.fullmatch(rf"{what}/([0-9]{{1,9}})", asked)
        if found is None or int(found[1]) >= len(self.server.review):
            return None
        return int(found[1])


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value, ensure_ascii=False).encode(), "application/json; charset=utf-8"


def serve(review: Review, port: int, say: Callable[[str], None]) -> None:
    """Serve a review until it is interrupted.

    Args:
        review: what is reviewed.
        port: to listen on; 0 for any that is free.
        say: prints one line.

    Raises:
        MaskwrightError: the port is taken.
    """
    with Server(review, port) as server:
        say(f"{len(review)} masks, the least certain first. Everything is saved as you go; Ctrl-C ends this.")
        say(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            saved()
