"""Which requests need no API key while none exists: direct ones of this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from orchestrator.security.bind_policy import is_loopback, loopback_host_port
from orchestrator.security.keyless_access import FORWARDED, LOOPBACK_ONLY, comes_from_proxy, refusal


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("", False),
        ("*", False),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
    ],
)
def test_loopback_addresses(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", (True, None)),
        ("127.0.0.1:8000", (True, 8000)),
        ("127.0.0.2:8000", (True, 8000)),
        ("localhost:8000", (True, 8000)),
        ("LOCALHOST", (True, None)),
        ("[::1]:8000", (True, 8000)),
        (None, (False, None)),
        ("", (False, None)),
        ("evil.example", (False, None)),
        ("127.0.0.1.evil.example", (False, None)),
        ("127.0.0.1@evil.example", (False, None)),
        ("evil.example#127.0.0.1", (False, None)),
        ("[::1", (False, None)),
        ("localhost:port", (False, None)),
        ("localhost:99999", (False, None)),
    ],
)
def test_host_headers_that_name_this_machine(host: str | None, expected: tuple[bool, int | None]) -> None:
    assert loopback_host_port(host) == expected


DIRECT = ["Host", "User-Agent", "Accept", "Content-Type"]


def test_a_direct_request_of_this_machine_needs_no_key() -> None:
    assert refusal(DIRECT, "127.0.0.1:8000", "127.0.0.1", 8000, "1.1") is None
    assert refusal(DIRECT, "localhost:8000", "::1", 8000, "1.1") is None
    assert refusal(DIRECT, "localhost", "127.0.0.1", 80, "1.1") is None


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-Forwarded-Proto",
        "Via",
        "X-Real-IP",
        "CF-Connecting-IP",
        "True-Client-IP",
        "X-Original-URI",
        "X-Envoy-External-Address",
    ],
)
def test_a_request_with_a_header_of_a_proxy_needs_a_key(header: str) -> None:
    assert refusal([*DIRECT, header], "127.0.0.1:8000", "127.0.0.1", 8000, "1.1") == FORWARDED


@pytest.mark.parametrize(
    ("host", "client", "protocol", "expected"),
    [
        ("evil.example:8000", "127.0.0.1", "1.1", LOOPBACK_ONLY),
        (None, "127.0.0.1", "1.1", LOOPBACK_ONLY),
        ("127.0.0.1:8000", "127.0.0.1", "1.0", FORWARDED),
        ("127.0.0.1:8000", "192.168.1.5", "1.1", FORWARDED),
        ("127.0.0.1:8000", None, "1.1", FORWARDED),
        # A proxy that passes the client's Host on: the client sends a loopback name, nginx drops the port.
        ("localhost", "127.0.0.1", "1.1", FORWARDED),
        ("localhost:443", "127.0.0.1", "1.1", FORWARDED),
    ],
)
def test_any_other_request_needs_a_key(
    host: str | None, client: str | None, protocol: str, expected: str
) -> None:
    assert refusal(DIRECT, host, client, 8000, protocol) == expected


CONNECT = """
import encodings.idna, os, socket, sys
if len(sys.argv) > 3:
    os.setuid(int(sys.argv[3]))
if sys.argv[2]:
    listener = socket.create_server((sys.argv[2].removeprefix("parent "), 0))
    if sys.argv[2].startswith("parent ") and os.fork():
        os.wait()
    elif sys.argv[2].startswith("parent "):
        listener.close()
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.recv(1)
"""


@contextmanager
def connected_process(listens_on: str, user: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the port of a connection of another process, and the port that it is connected to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        user_argument = [] if user is None else [str(user)]
        process = subprocess.Popen([sys.executable, "-c", CONNECT, str(port), listens_on, *user_argument])
        try:
            server.settimeout(20)
            connection, client = server.accept()
            with connection:
                yield client[1], port
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the socket tables of Linux")
@pytest.mark.parametrize(
    ("listens_on", "expected"),
    [("", False), ("127.0.0.1", False), ("0.0.0.0", True), ("parent 0.0.0.0", True)],
)
def test_a_process_that_listens_beyond_loopback_may_be_a_proxy(listens_on: str, expected: bool) -> None:
    with connected_process(listens_on) as (client_port, port), suppress(ConnectionError):
        assert comes_from_proxy(client_port, port) is expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_may_be_a_proxy() -> None:
    with connected_process("", user=65534) as (client_port, port), suppress(ConnectionError):
        assert comes_from_proxy(client_port, port)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the socket tables of Linux")
def test_a_process_of_the_same_user_may_hide_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox of a browser does."""
    monkeypatch.setattr(psutil, "net_connections", lambda _kind: [])
    with connected_process("0.0.0.0") as (client_port, port), suppress(ConnectionError):
        assert not comes_from_proxy(client_port, port)


def test_a_connection_that_no_process_holds_is_not_from_a_proxy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not comes_from_proxy(1, server.getsockname()[1])
