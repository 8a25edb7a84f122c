"""Sources of settings, and the settings of an isolated stack."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.errors import SettingsError
from orchestrator.settings import STACK_MARKER, Settings

REAL = "postgresql://orders@db.example.com/orders"
OTHER = "postgresql://orders@db.example.com/other"
KEY = "ord_" + "k" * 43
PAYLOAD_KEYS = "2026-11:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    file = tmp_path / ".env"
    file.write_text(
        f"DATABASE_URL={REAL}\nAPI_KEY={KEY}\nPAYLOAD_KEYS={PAYLOAD_KEYS}\n"
        "API_PORT=9999\nBIND_ADDRESS=0.0.0.0\nAPI_URL=http://elsewhere:8000\nAUTH=required\nORDER_WORKERS=3\n"
        "WORKER_BUILD_ID=7\nTEMPORAL_ADDRESS=elsewhere:7233\nDATABASE_READER_URL=postgresql://reader@db/orders\n"
    )
    return file


@pytest.mark.parametrize("text", [f" {KEY}\r\n", f"\t{KEY}", f"{KEY}\x0b"])
def test_white_space_around_a_key_is_removed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("API_KEY", text)
    assert Settings.load().api_key_text == KEY


@pytest.mark.parametrize(
    "text", [f'"{KEY}"', f"'{KEY}'", f"{KEY} x", f"{KEY}\n{KEY}", f"{KEY}é", f"Bearer {KEY}", f"{KEY}\u200b"]
)
def test_a_text_that_no_key_can_be_is_refused_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("API_KEY", text)
    with pytest.raises(SettingsError, match=r"^API_KEY: it contains a space") as refused:
        Settings.load()
    assert KEY not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, REAL),
        ({"DATABASE_URL": OTHER}, OTHER),
        ({"DB_URL": OTHER}, OTHER),
        ({"DATABASE_URL": ""}, None),
        ({STACK_MARKER: "/somewhere"}, None),
    ],
)
def test_the_environment_overrides_the_file_also_with_an_empty_value(
    env_file: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=env_file).database_url == expected  # type: ignore[call-arg]


def test_a_process_of_a_stack_reads_no_env_file(env_file: Path) -> None:
    program = (
        "from orchestrator.settings import Settings; s = Settings.load();"
        "print(s.database_url, s.api_key, s.payload_keys, s.port('api'), s.order_workers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=env_file.parent,
        env=stack_environment(Settings(order_workers=2)) | {"API_KEY": "", "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["None", "None", "None", "8000", "2"]


def test_an_isolated_stack_shares_nothing_with_another_system(env_file: Path, tmp_path: Path) -> None:
    ours = Settings(_env_file=env_file, carrier_gateway="http")  # type: ignore[call-arg]
    isolated = ours.isolated(tmp_path / "home", port_base=4_000, auto_review_seconds=0.5)
    changed = {name for name, value in ours if value != getattr(isolated, name)}
    assert changed == {
        "orders_home", "database_url", "database_reader_url", "temporal_address", "bind_address",
        "configured_api_url", "auth", "api_key", "worker_build_id", "api_port", "port_base",
        "auto_review_seconds", "carrier_gateway",
    }  # fmt: skip
    assert isolated.uses_embedded_postgres
    assert isolated.uses_embedded_temporal
    assert isolated.api_url == "http://127.0.0.1:4000"
    assert isolated.home == tmp_path / "home"
    assert isolated.payload_keys == PAYLOAD_KEYS
    assert ours.isolated(tmp_path).port("api") == 9_999
