"""What a connection may send, and for how long, before the API looks at it: over real sockets."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
import uvloop

from orchestrator.api import http_limits
from orchestrator.api.http_limits import MAX_HEAD_BYTES, BoundedProtocol

QUICK_SECONDS = 0.3

Connect = Callable[[], socket.socket]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body, once it is whole."""
    n_bytes, is_whole = 0, False
    while not is_whole:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        n_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
    body = str(n_bytes).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
    opened: list[socket.socket] = []

    def open_one() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", QUICK_SECONDS)
    monkeypatch.setattr(http_limits, "BODY_SECONDS", QUICK_SECONDS)


def everything(client: socket.socket) -> str:
    """What the server says until it closes the connection."""
    said = b""
    with suppress(ConnectionError):
        while piece := client.recv(65_536):
            said += piece
    return said.decode()


def answer(client: socket.socket) -> str:
    said = b""
    while b"\r\n\r\n" not in said:
        said += client.recv(65_536)
    return said.decode()


def flood(client: socket.socket, first: bytes, again: bytes) -> int:
    """Sends until the server does not take more; returns how many bytes that were."""
    sent = 0
    client.settimeout(2)
    with suppress(OSError):
        client.sendall(first)
        while sent < 64 * 2**20:
            client.sendall(again)
            sent += len(again)
    return sent


def is_problem(said: str, status: int) -> bool:
    head, _, body = said.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} "), said
    for header in (
        "content-type: application/problem+json",
        "connection: close",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ):
        assert header in head
    return f'"status":{status}' in body


def test_requests_of_a_usual_size_are_answered_one_after_the_other(connect: Connect) -> None:
    client = connect()
    padding = b"x-padding: " + b"p" * (MAX_HEAD_BYTES - 500) + b"\r\n"
    for _ in range(3):
        client.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n" + padding + b"content-length: 3\r\n\r\nabc")
        assert answer(client).endswith("3")


def test_pieces_of_a_request_and_tiny_chunks_of_a_body_are_none_too_many(connect: Connect) -> None:
    client = connect()
    for piece in (
        b"\r\n",
        b"POST / HT",
        b"TP/1.1\r\nhost: a\r",
        b"\ntransfer-encoding: chunked\r\n\r",
        b"\n",
    ):
        client.sendall(piece)
    client.sendall(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert answer(client).endswith("20000")


def test_requests_sent_ahead_are_answered_in_turn(connect: Connect) -> None:
    client = connect()
    client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 2_000)
    said = b""
    while said.count(b"HTTP/1.1 200 OK") < 2_000:
        said += client.recv(65_536)
    assert b" 431 " not in said


@pytest.mark.parametrize(
    "head",
    [
        b"GET /?" + b"q" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"v" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n" + b"name: value\r\n" * (MAX_HEAD_BYTES // 9 + 1) + b"\r\n",
    ],
    ids=["address", "one header", "many headers"],
)
def test_a_head_that_is_too_large_is_refused(connect: Connect, head: bytes) -> None:
    client = connect()
    client.sendall(head)
    assert is_problem(everything(client), 431)


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"GET /", b"q" * 8_192),
        (b"GET / HTTP/1.1\r\nx: ", b"v" * 8_192),
        (b"GET / HTTP/1.1\r\n", b"n: v\r\n" * 1_000),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: ", b"v" * 8_192),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"n: v\r\n" * 1_000),
    ],
    ids=["address", "one header", "many headers", "one trailer", "many trailers"],
)
def test_a_head_without_an_end_is_not_kept(connect: Connect, first: bytes, again: bytes) -> None:
    client = connect()
    # What the kernels hold between the two comes on top.
    assert flood(client, first, again) < 16 * 2**20


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nhost: a\r\n", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc"]
)
def test_a_request_that_does_not_come_to_its_end_is_ended(connect: Connect, first: bytes) -> None:
    client = connect()
    began = time.monotonic()
    client.sendall(first)
    assert is_problem(everything(client), 408)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("first", [b"", b"\r\n"])
def test_a_connection_on_which_nothing_comes_is_closed(connect: Connect, first: bytes) -> None:
    client = connect()
    client.sendall(first)
    assert everything(client) == ""


@pytest.mark.usefixtures("quick")
def test_bytes_one_by_one_do_not_lengthen_the_time(connect: Connect) -> None:
    client = connect()
    began = time.monotonic()
    with suppress(OSError):
        client.sendall(b"GET / HTTP/1.1\r\nhost: ")
        while time.monotonic() - began < 20 and not _has_ended(client):
            client.sendall(b"a")
    assert time.monotonic() - began < 5


def _has_ended(client: socket.socket) -> bool:
    client.settimeout(QUICK_SECONDS / 6)
    try:
        client.recv(1)
        return True
    except TimeoutError:
        return False
    finally:
        client.settimeout(10)


def test_what_is_no_request_is_a_problem_document(connect: Connect) -> None:
    client = connect()
    client.sendall(b"this is nothing\r\n\r\n")
    assert is_problem(everything(client), 400)


def test_one_connection_too_many_is_told_to_come_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "MAX_CONNECTIONS", 2)
    first, second = connect(), connect()
    for client in (first, second):
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert answer(client).endswith("0")
    said = everything(connect())
    assert is_problem(said, 503)
    assert "retry-after: 1" in said
    first.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer(first).endswith("0"), "those who are in stay"
