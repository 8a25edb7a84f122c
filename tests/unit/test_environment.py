"""Variables of other programs change neither the settings nor the environment of a component."""

import os
from pathlib import Path

import pytest
from psycopg.pq import Conninfo

from orchestrator.embedded.layout import stack_environment
from orchestrator.errors import SettingsError
from orchestrator.settings import Settings
from orchestrator.settings.environment import server_environment

LIBPQ_VARIABLES = [option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar]

FOREIGN = {
    "PGPORT": "5433",
    "PGSERVICE": "other",
    "PYTHONWARNINGS": "error",
    "PYTHONHOME": "/nowhere",
    "STREAMLIT_SERVER_PORT": "1",
    "LOCUST_RUN_TIME": "5s",
    "OTEL_TRACES_EXPORTER": "console",
    "LC_ALL": "de_DE.UTF-8",
}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the environment after the test."""
    for name in (*LIBPQ_VARIABLES, "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_no_variable_of_libpq_affects_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"PGHOST", "PGPORT", "PGOPTIONS", "PGSSLMODE", "PGCONNECT_TIMEOUT"} <= set(LIBPQ_VARIABLES)
    untouched = {option.keyword: option.val for option in Conninfo.get_defaults()}
    for name in LIBPQ_VARIABLES:
        monkeypatch.setenv(name, "7")
    Settings.load()
    assert {option.keyword: option.val for option in Conninfo.get_defaults()} == untouched


def test_requests_to_this_machine_use_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org,localhost")
    for _ in range(2):
        Settings.load()
    assert os.environ["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost,::1"


def test_a_component_receives_no_variable_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    kept = stack_environment(Settings())
    assert {name for name in FOREIGN if name in kept} == {"OTEL_TRACES_EXPORTER", "LC_ALL"}
    assert kept["PYTHONUTF8"] == "1"
    assert not set(FOREIGN) & set(server_environment())
    assert "PATH" in server_environment()


@pytest.mark.parametrize("component", ["temporal", "api", "locust", "dashboard", "temporal_ui"])
def test_a_kubernetes_service_link_is_ignored(
    component: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"{component.upper()}_PORT"
    default = Settings().port(component)
    monkeypatch.setenv(name, "tcp://10.96.0.13:7233")
    assert Settings.load().port(component) == default
    env_file = tmp_path / ".env"
    env_file.write_text(f"{name}=9999\n")
    assert Settings(_env_file=env_file).port(component) == 9999  # type: ignore[call-arg]
    monkeypatch.setenv(name, "http://10.96.0.13:7233")
    with pytest.raises(SettingsError, match=name):
        Settings.load()


def test_the_metrics_port_ignores_a_service_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_METRICS_PORT", "udp://10.96.0.13:9000")
    assert Settings.load().worker_metrics_port == 0


def test_different_values_under_the_current_and_the_older_name_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "postgresql://orders@db/orders"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("DB_URL", url)
    assert Settings.load().database_url == url
    monkeypatch.setenv("DB_URL", f"{url}2")
    with pytest.raises(SettingsError, match="DATABASE_URL and DB_URL, its older name, have different values"):
        Settings.load()
    monkeypatch.delenv("DB_URL")
    env_file = tmp_path / ".env"
    env_file.write_text("ORDER_DEADLINE_SECONDS=15\nORDER_WORKFLOW_TIMEOUT_SECONDS=20\n")
    with pytest.raises(SettingsError, match="unset ORDER_WORKFLOW_TIMEOUT_SECONDS"):
        Settings(_env_file=env_file)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("API_URL", "127.0.0.1:8000", "must be a URL like http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317", "must be a URL like http://HOST:PORT"),
        ("TEMPORAL_ADDRESS", "http://temporal:7233", "must be HOST:PORT, for example localhost:7233"),
        ("TEMPORAL_ADDRESS", "temporal", "must be HOST:PORT, for example localhost:7233"),
        ("WORKER_BUILD_ID", "a/b", "must be 1 to 64 letters, digits, '-', '_', '.'"),
    ],
)
def test_the_form_of_a_setting_is_described_without_a_regular_expression(
    name: str, value: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as rejected:
        Settings.load()
    assert str(rejected.value) == f"{name}: {form}"
