"""Lookups as bytes on a connection: whatever way a request comes, it is answered once, whole, and in its turn."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.servers.api import ApiServer, expected, lookup, make_repository, run_command, running_api

LINE = b"POST /get-online-features HTTP/1.1\r\n"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    repository = make_repository(tmp_path_factory.mktemp("protocol") / "repository", "{type: lmdb}")
    with running_api(repository) as server:
        yield server


def request(*drivers: int, headers: bytes = b"", line: bytes = LINE) -> bytes:
    body = json.dumps(lookup(*drivers)).encode()
    return line + b"host: x\r\n" + headers + b"content-length: %d\r\n\r\n" % len(body) + body


class Connection:
    """A client that sends what it is told and reads answers one by one."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next answer."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        return status, headers, self.file.read(int(headers["content-length"]))

    def drivers(self) -> list[int]:
        """Return which drivers the next answer, which must be right, is about."""
        status, headers, body = self.answer()
        assert (status, headers["content-type"]) == (200, "application/json")
        found = json.loads(body)
        values = [result["values"] for result in found["results"]]
        answered: list[int] = values[0]
        assert dict(zip(found["metadata"]["feature_names"], values, strict=True)) == expected(*answered)
        return answered

    def is_over(self) -> bool:
        """Return whether the server closed the connection."""
        return self.file.read(1) == b""


def test_answers_come_in_the_order_of_requests_whatever_lies_between(api: ApiServer) -> None:
    listing = b"GET /features HTTP/1.1\r\nhost: x\r\n\r\n"
    wrong = LINE + b"content-length: 2\r\n\r\n{}"
    with Connection(api.port) as client:
        client.send(request(1) + request(2, 3) + listing + request(4) + wrong + request(5))
        assert (client.drivers(), client.drivers()) == ([1], [2, 3])
        status, _, body = client.answer()
        assert (status, b"newest" in body) == (200, True)
        assert client.drivers() == [4]
        assert client.answer()[0] == 400
        assert client.drivers() == [5]


def test_a_body_may_come_byte_by_byte(api: ApiServer) -> None:
    sent = request(7)
    with Connection(api.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(*(sent[place : place + 1] for place in range(len(sent))))
        assert client.drivers() == [7]
        client.send(sent[:-5])
        client.send(sent[-5:] + request(8))
        assert (client.drivers(), client.drivers()) == ([7], [8])


def test_a_body_of_unknown_length_is_taken_too(api: ApiServer) -> None:
    body = json.dumps(lookup(9)).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with Connection(api.port) as client:
        client.send(LINE + b"host: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
        assert client.drivers() == [9]


def test_a_client_that_asks_whether_to_go_on_is_told_to(api: ApiServer) -> None:
    sent = request(9, headers=b"expect: 100-continue\r\n")
    end = sent.index(b"\r\n\r\n") + 4
    with Connection(api.port) as client:
        client.send(sent[:end])
        assert client.file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert client.file.readline() == b"\r\n"
        client.send(sent[end:])
        assert client.drivers() == [9]


@pytest.mark.parametrize(
    ("line", "headers"),
    [(LINE, b"connection: close\r\n"), (LINE.replace(b"1.1", b"1.0"), b"")],
    ids=["close", "HTTP/1.0"],
)
def test_a_connection_is_closed_where_the_client_asks_for_it(api: ApiServer, line: bytes, headers: bytes) -> None:
    with Connection(api.port) as client:
        client.send(request(3, headers=headers, line=line))
        assert client.drivers() == [3]
        assert client.is_over()


def test_two_lengths_or_a_length_and_chunks_are_refused(api: ApiServer) -> None:
    """Else a proxy in front could see other requests than the server does."""
    for headers in (b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n"):
        with Connection(api.port) as client:
            client.send(request(3, headers=headers))
            assert client.answer()[0] == 400
            assert client.is_over()


def test_a_compressed_body_is_refused_and_the_connection_stays(api: ApiServer) -> None:
    with Connection(api.port) as client:
        client.send(request(3, headers=b"content-encoding: gzip\r\n") + request(4))
        assert client.answer()[0] == 415
        assert client.drivers() == [4]


def test_a_server_that_ends_finishes_what_is_half_sent_or_hangs_up(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository", "{type: lmdb}")
    with running_api(repository, "--grace-seconds", "5") as api, Connection(api.port) as client:
        sent = request(6)
        client.send(request(5))
        assert client.drivers() == [5]
        client.send(sent[:-1])
        api.http.get("/health/live")  # by now the first part has arrived
        api.process.terminate()
        client.send(sent[-1:])
        assert client.drivers() == [6]
        assert client.is_over()
        assert api.process.wait(30) == 0


def test_headers_without_end_are_refused(api: ApiServer) -> None:
    for part in (b"x-a: " + b"a" * 1000 + b"\r\n", b"a" * 1000):
        with Connection(api.port) as client:
            client.send(LINE + b"x-b: ")
            sent = 0
            try:
                while sent < 10 << 20:
                    client.send(part)
                    sent += len(part)
            except OSError:  # the server hung up
                pass
            assert sent < 10 << 20
    with Connection(api.port) as client:
        client.send(request(3, headers=b"x-a: " + b"a" * 20_000 + b"\r\n") + request(4))
        assert (client.drivers(), client.drivers()) == ([3], [4])


def test_clients_that_go_away_leave_no_bodies_behind(api: ApiServer) -> None:
    def memory() -> int:
        text = Path(f"/proc/{api.process.pid}/statm").read_text()
        return int(text.split()[1]) * 4096

    def come_and_go() -> int:
        for _ in range(40):
            with Connection(api.port) as client:
                client.send(LINE + b"content-length: 5000000\r\n\r\n" + b" " * 4_000_000)
        return memory()

    before = come_and_go()
    assert come_and_go() - before < 60_000_000
    assert re.search(r'featurestore_requests_total{[^}]*"499"[^}]*} [1-9]', api.http.get("/metrics").text)


def test_strangers_cannot_make_the_server_hold_bodies(tmp_path: Path) -> None:
    """A token is asked for before a body is read."""
    repository = make_repository(tmp_path / "repository", "{type: lmdb}")
    made = run_command(repository, "token", "create", "app", "--scope", "read")
    secret = made.stdout.strip().encode()
    with running_api(repository) as api, Connection(api.port) as client:
        client.send(LINE + b"content-length: 5000000\r\n\r\n")
        assert client.answer()[0] == 401
    with running_api(repository) as api, Connection(api.port) as client:
        for _ in range(3):
            client.send(request(1, headers=b"authorization: Bearer " + secret + b"\r\n"))
            assert client.drivers() == [1]
