"""No output of a stack has a secret: a run with a secret in every setting that can hold one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import structlog

from orchestrator.observability import logs
from orchestrator.security.key_hashing import new_key
from orchestrator.settings import Settings
from tests import secrets
from tests.ports import free_port_base
from tests.servers import PostgresServer
from tests.stacks import processes_in, temporary_home

READER_PASSWORD = "planted-password-of-the-reader"
SECRETS = (
    secrets.DATABASE_PASSWORD,
    READER_PASSWORD,
    secrets.PAYLOAD_KEY,
    secrets.TEMPORAL_API_KEY,
    secrets.OTLP_TOKEN,
)


@pytest.fixture
def _planted() -> Iterator[None]:
    secrets.planted.add(READER_PASSWORD)
    yield
    secrets.planted.remove(READER_PASSWORD)


@dataclass(frozen=True)
class Shell:
    """Runs commands with the planted settings. What they print is searched, as for every test."""

    environment: dict[str, str]

    def run(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words],
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


# Some thirty commands of a second each, on a busy machine of several.
@pytest.mark.timeout(420)
@pytest.mark.stack
@pytest.mark.usefixtures("_planted")
def test_no_output_of_a_stack_has_a_secret(postgres: PostgresServer) -> None:
    port = free_port_base()
    with postgres.fresh_database() as url, temporary_home("orders-secrets-") as home:
        key = new_key()
        shell = Shell(
            os.environ
            | {
                "ORDERS_HOME": str(home),
                "PORT_BASE": str(port),
                "DATABASE_URL": url,
                "DATABASE_READER_URL": of_reader(url),
                "PAYLOAD_KEYS": f"planted:{secrets.PAYLOAD_KEY}",
                "STRIPE_API_KEY": secrets.STRIPE_API_KEY,
                "HTTP_GATEWAY_TOKEN": secrets.GATEWAY_TOKEN,
                "API_KEY": key,
                "ORDER_WORKERS": "1",
                "SHIPPING_WORKERS": "1",
                "AUTO_REVIEW_SECONDS": "0.1",
                "LOG_LEVEL": "DEBUG",
            }
        )
        orders = "orchestrator"
        added = shell.run(orders, "keys", "add", "deployment", "--role", "chaos", "--from-environment")
        assert added.returncode == 0, added.stderr
        up = shell.run(orders, "up", "--detach")
        assert up.returncode == 0, up.stderr
        try:
            _use(shell, f"http://127.0.0.1:{port}", key)
            running = processes_in(home)
            assert len(running) >= 5, "the processes of the stack"
            for process in running:
                secrets.record(f"command line of {process.partition(' ')[0]}", process)
        finally:
            down = shell.run(orders, "down")
        assert down.returncode == 0, down.stderr
        assert processes_in(home) == []


def of_reader(url: str) -> str:
    return url.replace(f"postgres:{secrets.DATABASE_PASSWORD}", f"orders_reader:{READER_PASSWORD}", 1)


def _use(shell: Shell, api: str, key: str) -> None:
    """Use the stack as people do, with and without success."""
    orders = "orchestrator"
    for words in (
        ("test", "planted-1"),
        ("status", "planted-1"),
        ("history", "planted-1", "--json"),
        ("ps", "--json"),
        ("doctor",),
        ("audit", "--json"),
        ("keys", "list"),
        ("faults", "set", "none"),
        ("export", "--csv", "-"),
        ("backup", "planted.tar"),
        ("keys", "add", "deployment", "--role", "chaos"),
    ):
        shell.run(orders, *words)
    run = shell.run("loadtest", "run", "--rate", "2", "--duration", "2s", "--slo-target", "0.5")
    # A busy machine can delay the four orders, or some of them.
    assert run.returncode in (0, 5, 6), run.stderr
    bearer = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=api, trust_env=False, timeout=20) as http:
        http.get("/metrics", headers=bearer)
        http.get("/openapi.json", headers=bearer)
        http.get("/whoami", headers={"Authorization": f"Bearer {key}x"})
        http.get("/orders", headers=bearer, params={"cursor": "x"})
        http.post("/orders/a/start", headers=bearer, content=b"{")
        http.post("/orders/a/start", headers=bearer, json={"initial_address": 1})
        http.post("/codec/decode", headers=bearer, json={"payloads": [{"data": "AA=="}]})
    shell.run(orders, "kill", "api")
    # Wrong settings, and servers that are not there.
    password, payload_key = secrets.DATABASE_PASSWORD, secrets.PAYLOAD_KEY
    unreachable = f"postgresql://orders:{password}@127.0.0.1:1/orders"
    for words, changes in (
        (("status", "planted-1"), {"API_KEY": f"{key} {key}"}),
        (("status", "planted-1"), {"API_KEY": f"{key[:-1]}0"}),
        (("status", "planted-1"), {"API_URL": f"http://user:{password}@127.0.0.1:1"}),
        (("status", "planted-1", "--api-url", f"http://user:{password}@127.0.0.1:1"), {}),
        (("keys", "list"), {"DATABASE_URL": unreachable}),
        (("migrate",), {"DATABASE_URL": unreachable}),
        (("doctor",), {"DATABASE_URL": unreachable}),
        (("doctor",), {"DATABASE_URL": f"postgresql://orders:{password}@host@/orders"}),
        (("keys", "list"), {"DATABASE_URL": f"postgresql://orders:{password}/x@127.0.0.1/orders"}),
        (("keys", "list"), {"DATABASE_URL": f"host=127.0.0.1 port=1 password={password} nonsense"}),
        (("doctor",), {"PAYLOAD_KEYS": f"planted:{payload_key},planted:{payload_key}"}),
        (("doctor",), {"PAYLOAD_KEYS": f"planted:{payload_key}=="}),
        (("doctor",), {"PAYLOAD_KEYS": payload_key}),
    ):
        shell.run(orders, *words, **changes)


@pytest.mark.usefixtures("_planted")
def test_the_settings_have_no_secret_in_their_text_and_in_files(tmp_path: Path) -> None:
    key = new_key()
    settings = Settings(
        orders_home=tmp_path,
        database_url=f"postgresql://orders:{secrets.DATABASE_PASSWORD}@db/orders",
        database_reader_url=f"postgresql://reader:{READER_PASSWORD}@db/orders",
        payload_keys=f"planted:{secrets.PAYLOAD_KEY}",
        api_key=key,
    )
    for secret in (key, *SECRETS):
        assert secret not in repr(settings) + str(settings)
    stored = settings.model_dump_json()
    assert key not in stored
    assert secrets.PAYLOAD_KEY not in stored
    assert Settings(**json.loads(stored)).database_url == settings.database_url


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_the_log_of_an_exception_has_no_local_variables(
    log_format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logging.root.handlers", [])
    logs.configure(Settings(log_format=log_format), "tests")  # type: ignore[arg-type]
    key = "planted-local-variable"
    try:
        raise ValueError(f"a key of {len(key)} characters")
    except ValueError:
        structlog.get_logger().exception("failed")
    finally:
        structlog.reset_defaults()
    printed = capsys.readouterr().out
    assert "ValueError: a key of 22 characters" in printed
    assert key not in printed


def test_the_search_finds_a_secret(tmp_path: Path) -> None:
    """The other tests pass only if this search works."""
    key = new_key()
    file = tmp_path / "deep" / "file.log"
    file.parent.mkdir()
    file.write_text(f"first line\nAuthorization: Bearer {key}\n")
    assert secrets.found_below(tmp_path) == ["deep/file.log: Authorization: Bearer [SECRET]"]
    file.write_text("no secret")
    assert secrets.found_below(tmp_path) == []
