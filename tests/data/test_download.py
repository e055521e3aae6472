"""Tests of downloads from a real server on 127.0.0.1 that misbehaves in every way seen in practice."""

import gzip
import hashlib
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from vae_fast.data.download import Remote, download
from vae_fast.errors import DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()  # does not compress
PACKED = gzip.compress(CONTENT, mtime=0)
FILE = Remote("numbers.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
OTHER = gzip.compress(CONTENT[::-1], mtime=0)


class Mirror(BaseHTTPRequestHandler):
    """A server of PACKED that behaves as the URL's first folder says and records each request as (behaviour, start)."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.server.requests.append((behaviour, start))
        getattr(self, behaviour)(start)

    def send(self, body, start=0, *, upto=None, length=True):
        """Send body[start:upto] with the headers of body[start:]."""
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:upto])

    def good(self, start):
        self.send(PACKED, start)

    def no_length(self, start):
        self.send(PACKED, length=False)

    def missing(self, start):
        self.send_error(404)

    def breaks(self, start):
        """Send 100,000 bytes, then close the connection."""
        self.send(PACKED, start, upto=start + 100_000)

    def no_ranges(self, start):
        self.send(PACKED)

    def breaks_without_ranges(self, start):
        self.send(PACKED, upto=100_000)

    def wrong_range(self, start):
        """Send, and announce, another part than was requested."""
        self.send(PACKED, start and start + 5)

    def wrong(self, start):
        self.send(OTHER, start)

    def wrong_and_breaks(self, start):
        self.send(OTHER, start, upto=start + 100_000)

    def page(self, start):
        self.send(b"<html>Please log in to this network</html>", 0)

    def bomb(self, start):
        self.send(gzip.compress(bytes(10**8)), start)

    def endless(self, start):
        self.send(bytes(4 * 10**6), start)

    def stalls(self, start):
        """Send half of the file, then nothing."""
        self.send(PACKED, start, upto=150_000 if start < 150_000 else start)
        self.wfile.flush()
        self.server.closing.wait(10)

    def changes(self, start):
        """Send another file until the beginning is requested a second time."""
        fresh = self.server.requests.count(("changes", 0)) > 1
        self.send(PACKED if fresh else OTHER, start, upto=None if fresh or start else 100_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.requests, server.closing = [], threading.Event()
        server.url = lambda behaviour: f"http://127.0.0.1:{server.server_port}/{behaviour}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def fetch(server, folder, *behaviours, timeout=5.0):
    download([FILE], [server.url(behaviour) for behaviour in behaviours], folder, timeout=timeout)


def assert_whole(folder):
    assert gzip.decompress((folder / FILE.name).read_bytes()) == CONTENT
    assert sorted(path.name for path in folder.iterdir()) == [".lock", FILE.name]


@pytest.mark.parametrize(
    ("behaviours", "starts"),
    [
        (["good"], [0]),
        (["no_length"], [0]),
        (["missing", "good"], [0, 0]),
        (["breaks"], [0, 100_000, 200_000, 300_000]),
        (["breaks_without_ranges", "good"], [0, 100_000, 100_000]),
        (["wrong", "good"], [0, 0]),
        (["page", "good"], [0, 0]),
        (["bomb", "good"], [0, 0]),
        (["endless", "good"], [0, 0]),
        (["changes"], [0, 100_000, 0]),
    ],
    ids=str,
)
def test_the_file_comes_whole_from_the_first_mirror_that_delivers_it(server, tmp_path, behaviours, starts):
    fetch(server, tmp_path / "new" / "folder", *behaviours)
    assert [start for _, start in server.requests] == starts
    assert [*dict.fromkeys(behaviour for behaviour, _ in server.requests)] == behaviours
    assert_whole(tmp_path / "new" / "folder")


@pytest.mark.parametrize(
    ("part", "behaviour", "starts"),
    [
        pytest.param(PACKED[:1000], "good", [1000], id="the rest is fetched"),
        pytest.param(PACKED[:1000], "no_ranges", [1000], id="everything is sent"),
        pytest.param(PACKED[:1000], "wrong_range", [1000, 0], id="another part is sent"),
        pytest.param(PACKED, "good", [len(PACKED)], id="nothing was missing"),
        pytest.param(PACKED + b"more", "good", [len(PACKED) + 4, 0], id="too long"),
        pytest.param(OTHER[:1000], "good", [1000, 0], id="of another version"),
    ],
)
def test_a_download_continues_from_what_an_earlier_process_left(server, tmp_path, part, behaviour, starts):
    (tmp_path / f"{FILE.name}.part").write_bytes(part)
    fetch(server, tmp_path, behaviour)
    assert [start for _, start in server.requests] == starts
    assert_whole(tmp_path)


def test_silence_counts_as_a_broken_connection(server, tmp_path):
    start = time.monotonic()
    fetch(server, tmp_path, "stalls", "good", timeout=0.3)
    assert time.monotonic() - start < 5
    assert server.requests == [("stalls", 0), ("stalls", 150_000), ("good", 150_000)]
    assert_whole(tmp_path)


def test_the_error_when_all_mirrors_fail_gives_the_reason_of_each(server, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(server, tmp_path, "missing", "wrong_and_breaks", "stalls", timeout=0.2)
    for words in ("numbers.gz could not be downloaded", "/missing/numbers.gz: HTTP 404 Not Found", "SHA-256 differs",
                  "timed out", f"put it there by hand, into {tmp_path}"):  # fmt: skip
        assert words in str(caught.value)
    assert (tmp_path / f"{FILE.name}.part").stat().st_size == 150_000  # kept for the next attempt


def test_a_refused_connection_is_an_error_that_names_the_url(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DataError, match=f"127.0.0.1:{port}/numbers.gz: .*Connection refused"):
        download([FILE], [f"http://127.0.0.1:{port}/"], tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot download into .*Not a directory"):
        fetch(server, tmp_path / "file" / "folder", "good")


def test_of_two_processes_at_once_one_downloads_and_the_other_waits(server, tmp_path):
    """Check that both processes find the file, and that it was requested only once."""
    program = f"from vae_fast.data.download import *; download([{FILE}], ['{server.url('good')}'], Path('{tmp_path}'))"
    children = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [child.wait(30) for child in children] == [0, 0]
    assert server.requests == [("good", 0)]
    assert_whole(tmp_path)


def test_a_progress_bar_appears_only_on_a_terminal(server, tmp_path, capfd, monkeypatch):
    fetch(server, tmp_path / "quiet", "good")
    assert capfd.readouterr().err == f"downloading {server.url('good')}{FILE.name}\n"
    outer, inner = pty.openpty()
    with os.fdopen(outer, "rb"), os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        fetch(server, tmp_path / "terminal", "good")
        assert b"numbers.gz" in os.read(outer, 10_000)
