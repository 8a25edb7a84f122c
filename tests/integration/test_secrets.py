"""No output of a stack has a secret: a run with a secret in every setting that can hold one."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import structlog

from orchestrator.observability import logs
from orchestrator.security.key_hashing import new_key
from orchestrator.settings import STACK_MARKER, Settings
from tests import secrets
from tests.ports import free_port_base
from tests.servers import PostgresServer
from tests.stacks import processes_in, temporary_home

PASSWORD = "planted-Pa55word-of-the-database"
READER_PASSWORD = "planted-Pa55word-of-the-reader"
PAYLOAD_KEY = base64.b64encode(os.urandom(32)).decode()
TEMPORAL_KEY = "planted-key-of-temporal-cloud"
OTHER_SECRETS = (PASSWORD, READER_PASSWORD, PAYLOAD_KEY, TEMPORAL_KEY)


@pytest.fixture
def _planted() -> Iterator[None]:
    before = set(secrets.planted)
    secrets.planted.update(OTHER_SECRETS)
    yield
    secrets.planted.clear()
    secrets.planted.update(before)


class Shell:
    """Runs commands with the planted settings, and collects everything that they print."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.found: list[str] = []

    def run(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.look(done.stdout + done.stderr, " ".join(words[:2]))
        return done

    def look(self, text: str, place: str) -> None:
        self.found += secrets.found_in(text, place)


def with_password(url: str, user: str, password: str) -> str:
    return url.replace("postgres@", f"{user}:{password}@", 1)


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
                "DATABASE_URL": with_password(url, "postgres", PASSWORD),
                "DATABASE_READER_URL": with_password(url, "orders_reader", READER_PASSWORD),
                "PAYLOAD_KEYS": f"planted:{PAYLOAD_KEY}",
                "TEMPORAL_API_KEY": TEMPORAL_KEY,
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
            for process in psutil.process_iter():
                if process.pid != os.getpid():
                    shell.look(_command_line(process), f"command line of {process.pid}")
        finally:
            down = shell.run(orders, "down")
        assert down.returncode == 0, down.stderr
        assert processes_in(home) == []
        shell.found += secrets.found_below(home)
    assert shell.found == []


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
    assert run.returncode in (0, 5), run.stderr
    bearer = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=api, trust_env=False, timeout=20) as http:
        for response in (
            http.get("/metrics", headers=bearer),
            http.get("/openapi.json", headers=bearer),
            http.get("/whoami", headers={"Authorization": f"Bearer {key}x"}),
            http.get("/orders", headers=bearer, params={"cursor": "x"}),
            http.post("/orders/a/start", headers=bearer, content=b"{"),
            http.post("/orders/a/start", headers=bearer, json={"initial_address": 1}),
            http.post("/codec/decode", headers=bearer, json={"payloads": [{"data": "AA=="}]}),
        ):
            shell.look(response.text + str(response.headers), str(response.request.url))
    shell.run(orders, "kill", "api")
    # Wrong settings, and servers that are not there.
    unreachable = f"postgresql://orders:{PASSWORD}@127.0.0.1:1/orders"
    for words, changes in (
        (("status", "planted-1"), {"API_KEY": f"{key} {key}"}),
        (("status", "planted-1"), {"API_KEY": f"{key[:-1]}0"}),
        (("status", "planted-1"), {"API_URL": f"http://user:{PASSWORD}@127.0.0.1:1"}),
        (("status", "planted-1", "--api-url", f"http://user:{PASSWORD}@127.0.0.1:1"), {}),
        (("keys", "list"), {"DATABASE_URL": unreachable}),
        (("migrate",), {"DATABASE_URL": unreachable}),
        (("doctor",), {"DATABASE_URL": unreachable}),
        (("doctor",), {"DATABASE_URL": f"postgresql://orders:{PASSWORD}@host@/orders"}),
        (("keys", "list"), {"DATABASE_URL": f"postgresql://orders:{PASSWORD}/x@127.0.0.1/orders"}),
        (("keys", "list"), {"DATABASE_URL": f"host=127.0.0.1 port=1 password={PASSWORD} nonsense"}),
        (("doctor",), {"PAYLOAD_KEYS": f"planted:{PAYLOAD_KEY},planted:{PAYLOAD_KEY}"}),
        (("doctor",), {"PAYLOAD_KEYS": f"planted:{PAYLOAD_KEY}=="}),
        (("doctor",), {"PAYLOAD_KEYS": PAYLOAD_KEY}),
    ):
        shell.run(orders, *words, **changes)


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.usefixtures("_planted")
def test_the_settings_have_no_secret_in_their_text_and_in_files(tmp_path: Path) -> None:
    key = new_key()
    settings = Settings(
        orders_home=tmp_path,
        database_url=f"postgresql://orders:{PASSWORD}@db/orders",
        database_reader_url=f"postgresql://reader:{READER_PASSWORD}@db/orders",
        payload_keys=f"planted:{PAYLOAD_KEY}",
        api_key=key,
    )
    for secret in (key, *OTHER_SECRETS):
        assert secret not in repr(settings) + str(settings)
    stored = settings.model_dump_json()
    assert key not in stored
    assert PAYLOAD_KEY not in stored
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
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file.log").write_text(f"first line\nAuthorization: Bearer {key}\n")
    assert secrets.found_below(tmp_path) == ["deep/file.log: Authorization: Bearer [SECRET]"]
    assert STACK_MARKER not in secrets.found_in("nothing here", "place")
