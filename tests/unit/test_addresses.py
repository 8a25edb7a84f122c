"""BIND_ADDRESS: health checks and port checks use it, and it requires API keys beyond loopback."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.embedded import Stack, components
from orchestrator.embedded.component import ListeningPort
from orchestrator.embedded.health_checks import HealthChecks
from orchestrator.embedded.preflight import check_ports
from orchestrator.errors import StackError, UsageError
from orchestrator.operations.doctor.machine import has_listener
from orchestrator.settings import Settings
from tests.ports import free_port_base

OTHER_LOOPBACK = "127.0.0.2"


class HealthyServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that listens on that address only."""
    server = HTTPServer((OTHER_LOOPBACK, 0), HealthyServer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("bind_address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        (OTHER_LOOPBACK, "http://127.0.0.2:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_api_url_follows_the_bind_address(bind_address: str, url: str) -> None:
    assert Settings(bind_address=bind_address).api_url == url


def test_a_health_check_uses_the_bind_address(port: int) -> None:
    with HealthChecks(Settings(bind_address=OTHER_LOOPBACK)) as checks:
        assert checks.http_responds(port, "/health")
    with HealthChecks(Settings()) as checks:
        assert not checks.http_responds(port, "/health")


def test_a_port_check_uses_the_bind_address(port: int) -> None:
    taken = ListeningPort(port, "the API", "API_PORT", OTHER_LOOPBACK)
    with pytest.raises(StackError, match=f"Port {port} for the API is in use"):
        check_ports([taken])
    assert has_listener(taken)
    on_default_address = ListeningPort(port, "the API", "API_PORT")
    check_ports([on_default_address])
    assert not has_listener(on_default_address)


def test_the_pages_and_the_api_listen_on_the_bind_address() -> None:
    settings = Settings(bind_address=OTHER_LOOPBACK, database_url=None, temporal_address=None)
    listening = {
        port.setting: port.address for each in components.components(settings) for port in each.ports
    }
    assert {name for name, address in listening.items() if address == OTHER_LOOPBACK} == {
        "API_PORT",
        "DASHBOARD_PORT",
        "LOCUST_PORT",
    }


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "nowhere.invalid"])
def test_an_address_of_another_machine_is_an_error(address: str) -> None:
    with pytest.raises(StackError, match=rf"BIND_ADDRESS \({address}\) is not an address of this machine"):
        check_ports([ListeningPort(free_port_base(), "the API", "API_PORT", address)])


def test_a_stack_beyond_loopback_requires_api_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("supervisor.write_configuration", "supervisor.start_supervisor", "stack.migrate"):
        monkeypatch.setattr(f"orchestrator.embedded.{name}", lambda *_, **__: None)
    monkeypatch.setattr("db.runs.restore_faults", lambda _: None)
    monkeypatch.setattr("db.api_keys.exists", lambda _: False)
    stack = Stack(Settings(orders_home=tmp_path, database_url=None, bind_address="0.0.0.0"), [])
    with pytest.raises(UsageError) as raised:
        stack.up()
    assert str(raised.value) == (
        "the stack cannot listen on 0.0.0.0 without API keys; start the stack on 127.0.0.1 and create one: "
        "python -m orchestrator keys add NAME --role chaos, then start it again"
    )
    monkeypatch.setattr("db.api_keys.exists", lambda _: True)
    assert stack.up()
