"""The HTTP limits of the API's server, over real sockets."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn
import uvloop

from orchestrator.api.server import MAX_HEAD_BYTES, UVICORN_OPTIONS

Connect = Callable[[], socket.socket]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Responds with the length of the body."""
    n_bytes, is_complete = 0, False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        n_bytes += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
    body = str(n_bytes).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def served(**options: Any) -> Iterator[Connect]:
    """Serve the application with the API's options; yields a function that connects."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, lifespan="off", **UVICORN_OPTIONS | options))

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=serve)
    thread.start()
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(listener.getsockname(), timeout=10))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def connect() -> Iterator[Connect]:
    with served() as connect:
        yield connect


def until_closed(client: socket.socket) -> str:
    """Return what the server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while piece := client.recv(65_536):
            received += piece
    return received.decode()


def response(client: socket.socket) -> str:
    """Return a whole response; its head and its body can arrive separately."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    while length is not None and len(body) < int(length[1]):
        piece = client.recv(65_536)
        assert piece, "the response ended early"
        body += piece
    return (head + b"\r\n\r\n" + body).decode()


def flood(client: socket.socket, first: bytes, repeated: bytes) -> int:
    """Send until the server closes the connection. Returns the number of bytes sent."""
    sent = 0
    client.settimeout(2)
    with suppress(OSError):
        client.sendall(first)
        while sent < 64 * 2**20:
            client.sendall(repeated)
            sent += len(repeated)
    return sent


def test_a_connection_serves_several_requests_with_large_heads(connect: Connect) -> None:
    client = connect()
    padding = b"x-padding: " + b"p" * (MAX_HEAD_BYTES - 500) + b"\r\n"
    for _ in range(3):
        client.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n" + padding + b"content-length: 3\r\n\r\nabc")
        assert response(client).endswith("3")


def test_a_request_may_arrive_in_pieces_and_in_tiny_chunks(connect: Connect) -> None:
    client = connect()
    for piece in (b"POST / HT", b"TP/1.1\r\nhost: a\r", b"\ntransfer-encoding: chunked\r\n\r", b"\n"):
        client.sendall(piece)
    client.sendall(b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert response(client).endswith("20000")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /?" + b"q" * 2**20 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"v" * 2**20 + b"\r\n\r\n",
        b"not HTTP\r\n\r\n",
    ],
    ids=["url", "header", "malformed"],
)
def test_an_invalid_or_too_large_head_is_rejected_with_400(connect: Connect, head: bytes) -> None:
    client = connect()
    with suppress(ConnectionError):
        client.sendall(head)
    received = until_closed(client)
    # The server may reset the connection before the client has read the response.
    assert not received or received.startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        (b"GET /", b"q" * 8_192),
        (b"GET / HTTP/1.1\r\nx: ", b"v" * 8_192),
        (b"GET / HTTP/1.1\r\n", b"n: v\r\n" * 1_000),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx: ", b"v" * 8_192),
    ],
    ids=["url", "one header", "many headers", "trailer"],
)
def test_an_endless_head_is_not_buffered(connect: Connect, first: bytes, repeated: bytes) -> None:
    # The socket buffers of the kernel take several MB.
    assert flood(connect(), first, repeated) < 16 * 2**20


def test_more_connections_than_the_limit_receive_503() -> None:
    with served(limit_concurrency=2) as connect:
        first = connect()
        first.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert response(first).endswith("0")
        second = connect()
        second.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert response(second).startswith("HTTP/1.1 503 ")
