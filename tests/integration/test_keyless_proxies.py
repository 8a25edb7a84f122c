"""Without API keys, no request that came through a reverse proxy changes the fault profile: real nginx."""

import asyncio
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from orchestrator.api.app import create_app
from tests.deployment.test_nginx import nginx_program
from tests.integration.test_access import bearer, make_key, settings
from tests.live import eventually
from tests.ports import free_port_base
from tests.servers import PostgresServer

PROXIES = {
    "default": "proxy_pass http://127.0.0.1:{api};",
    "http 1.0": "proxy_pass http://127.0.0.1:{api}; proxy_http_version 1.0;",
    "keepalive": "proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection '';"
    " proxy_set_header Host 127.0.0.1:{api};",
    "host": "proxy_pass http://127.0.0.1:{api}; proxy_set_header Host $host;",
    "host and port": "proxy_pass http://127.0.0.1:{api}; proxy_set_header Host $http_host;",
    "forwarded": "proxy_pass http://127.0.0.1:{api}; proxy_set_header X-Forwarded-For $remote_addr;",
}


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.fresh_database() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[int]:
    """The port of an API without keys."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings(url)), log_config=None))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        eventually(lambda: server.started)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def running_proxy(home: Path, api: int, location: str) -> Iterator[int]:
    """Run nginx with this location, and yield its port."""
    port = free_port_base()
    temporary = "".join(
        f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root root;" if os.geteuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"{user} daemon off; pid {home}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} upstream api {{ server 127.0.0.1:{api}; keepalive 4; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ {location.format(api=api)} }} }} }}\n"
    )
    command = [nginx_program(), "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"]
    process = subprocess.Popen(command)
    try:
        eventually(lambda: _responds(port))
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _responds(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code in (200, 503)
    except httpx.TransportError:
        return False


def set_faults(port: int, **headers: str) -> int:
    return httpx.put(
        f"http://127.0.0.1:{port}/faults", json={"profile": "none"}, headers=headers, trust_env=False
    ).status_code


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxied_change_of_the_fault_profile_is_refused(api: int, name: str, tmp_path: Path) -> None:
    with running_proxy(tmp_path, api, PROXIES[name]) as proxy:
        for host in ("orders.example.com", f"127.0.0.1:{api}", f"127.0.0.1:{proxy}", "localhost"):
            assert set_faults(proxy, Host=host) in (401, 421), host
    assert set_faults(api) == 200


def test_a_direct_change_needs_no_key_and_takes_little_time(api: int) -> None:
    started_at = time.monotonic()
    assert set_faults(api) == 200
    assert time.monotonic() - started_at < 5


def test_with_a_key_a_proxied_change_is_accepted(url: str, api: int, tmp_path: Path) -> None:
    key = make_key(url, "ada", "chaos")
    with running_proxy(tmp_path, api, PROXIES["default"]) as proxy:
        eventually(lambda: set_faults(proxy, **bearer(key)) == 200)
        assert set_faults(proxy) == 401
