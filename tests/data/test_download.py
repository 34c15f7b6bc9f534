"""Downloads against a server that breaks off, corrupts, forgets and changes its mind."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sfumato.core.errors import DataError
from sfumato.data import download
from sfumato.data.download import RemoteFile, fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 700_000, dtype=np.uint8).tobytes()
SHA = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves `content` under every path; the attributes say how badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.tag = '"one"'
        self.break_after: list[int] = []  # bytes until each successive answer is cut off
        self.statuses: list[int] = []  # errors to answer with first
        self.corrupt = 0  # answers with a flipped byte
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []  # (path, Range)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        if server.corrupt and not start:
            server.corrupt -= 1
            body = body[:5] + bytes([body[5] ^ 1]) + body[6:]
        self.send_response(206 if start else 200)
        if start:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        if server.break_after:
            self.wfile.write(body[: server.break_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def remote(server: Server, checksum: str | None = SHA) -> RemoteFile:
    return RemoteFile("file.bin", f"{server.url}/origin/file.bin", checksum)


def leftovers(path: Path) -> set[str]:
    return {p.name for p in path.parent.iterdir() if p.suffix in (".part", ".json")} | {
        p.name for p in path.parent.glob("tmp*")
    }


def test_a_whole_file_is_fetched_once(server: Server, cache: Path) -> None:
    path = fetch("set", remote(server))
    assert path == cache / "downloads" / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert fetch("set", remote(server)) == path
    assert len(server.requests) == 1
    assert leftovers(path) == set()


def test_broken_connections_are_resumed_where_they_broke(server: Server) -> None:
    server.break_after = [300_000, 150_000, 1]
    path = fetch("set", remote(server))
    assert path.read_bytes() == CONTENT
    starts = [wanted for _, wanted in server.requests]
    assert starts[0] is None
    assert len(starts) == 4
    offsets = [int(s.removeprefix("bytes=").removesuffix("-")) for s in starts[1:] if s]
    assert offsets[0] > 0
    assert offsets == sorted(offsets)
    assert offsets[-1] <= 450_001


def test_a_later_process_resumes_too(server: Server) -> None:
    server.break_after = [400_000] + [0] * 20
    with pytest.raises(DataError, match="keeps breaking off"):
        fetch("set", remote(server))
    server.break_after = []
    before = len(server.requests)
    assert fetch("set", remote(server)).read_bytes() == CONTENT
    (only,) = server.requests[before:]
    assert only[1] is not None, "the second process asked for the rest only"


def test_halves_of_two_versions_are_never_joined(server: Server) -> None:
    old = bytes(700_000)
    server.content, server.tag, server.break_after = old, '"old"', [300_000] + [0] * 20
    with pytest.raises(DataError):
        fetch("set", remote(server))
    server.content, server.tag, server.break_after = CONTENT, '"new"', []
    assert fetch("set", remote(server)).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(server: Server) -> None:
    server.ranges, server.break_after = False, [300_000]
    assert fetch("set", remote(server)).read_bytes() == CONTENT


def test_a_weak_tag_promises_nothing(server: Server) -> None:
    server.tag, server.break_after = 'W/"x"', [300_000]
    assert fetch("set", remote(server)).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_corruption_is_noticed_and_fetched_again(server: Server) -> None:
    server.corrupt = 1
    assert fetch("set", remote(server)).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_lasting_corruption_is_refused(server: Server, cache: Path) -> None:
    server.corrupt = 99
    with pytest.raises(DataError) as refused:
        fetch("set", remote(server))
    wanted = cache / "downloads" / "set" / "file.bin"
    assert not wanted.exists()
    assert leftovers(wanted) == set(), "nothing corrupt is kept to be resumed"
    assert str(wanted) in str(refused.value)
    assert SHA in str(refused.value)


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server) -> None:
    server.statuses = [503, 429]
    assert fetch("set", remote(server)).read_bytes() == CONTENT
    server.statuses = [404] * 9
    before = len(server.requests)
    with pytest.raises(DataError, match="404"):
        fetch("other", remote(server))
    assert len(server.requests) == before + 1


def test_mirror_first_then_the_original(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFUMATO_MIRROR", f"{server.url}/mirror/")
    fetch("set", remote(server))
    assert [path for path, _ in server.requests] == ["/mirror/set/file.bin"]
    server.statuses = [404]
    fetch("other", remote(server))
    assert [path for path, _ in server.requests[1:]] == [
        "/mirror/other/file.bin",
        "/origin/file.bin",
    ]


@pytest.mark.usefixtures("server")
def test_offline_the_message_says_which_file_to_put_where(cache: Path) -> None:
    gone = RemoteFile("file.bin", "http://127.0.0.1:9/file.bin", SHA)
    with pytest.raises(DataError) as refused:
        fetch("set", gone)
    place = cache / "downloads" / "set" / "file.bin"
    for part in ("file.bin", SHA, str(place), "SFUMATO_MIRROR", "refused"):
        assert part in str(refused.value)
    place.write_bytes(CONTENT)
    assert fetch("set", gone) == place


def test_a_wrong_file_put_there_by_hand_is_named_and_left_alone(
    cache: Path, server: Server
) -> None:
    place = cache / "downloads" / "set" / "file.bin"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"something else")
    with pytest.raises(DataError, match="damaged or another version"):
        fetch("set", remote(server))
    assert place.read_bytes() == b"something else"
    assert server.requests == []


def test_without_a_published_checksum_the_size_is_checked(server: Server) -> None:
    server.break_after = [100]
    assert fetch("set", remote(server, None)).read_bytes() == CONTENT


def test_unwritable_cache_is_explained(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("SFUMATO_CACHE", "/proc/nowhere")
    with pytest.raises(DataError, match="SFUMATO_CACHE"):
        fetch("set", remote(server))
