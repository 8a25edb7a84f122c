"""Where clients connect: the embedded server, TEMPORAL_ADDRESS, or the server of a Temporal profile."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SettingsError
from orchestrator.settings import Settings
from orchestrator.temporal.client import connection

PROFILES = """
[profile.default]
address = "other.invalid:7233"
api_key = "not-for-us"

[profile.cloud]
address = "cloud.invalid:7233"
namespace = "orders.account"
api_key = "key"

[profile.no-address]
namespace = "orders.account"
"""


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file at the SDK's default path."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "temporalio" / "temporal.toml"
    file.parent.mkdir()
    file.write_text(PROFILES)
    return file


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ADDRESS", "HOST", "PORT", "NAMESPACE", "PROFILE", "CONFIG_FILE", "API_KEY", "TLS"):
        monkeypatch.delenv(f"TEMPORAL_{name}", raising=False)
    monkeypatch.chdir(tmp_path)


def connected(**given: Any) -> dict[str, Any]:
    return dict(connection(Settings(**given)))


def test_a_temporal_profile_does_not_apply_to_the_embedded_server(profiles: Path) -> None:
    assert Settings().uses_embedded_temporal
    assert connected(port_base=9000) == {"target_host": "127.0.0.1:9003", "namespace": "default"}


def test_temporal_address_overrides_the_profile_and_keeps_its_api_key(profiles: Path) -> None:
    given = {"temporal_address": "server.invalid:1", "temporal_profile": "cloud"}
    assert connected(**given) == {
        "target_host": "server.invalid:1",
        "namespace": "orders.account",
        "api_key": "key",
        "tls": True,
    }


def test_temporal_profile_selects_an_external_server(profiles: Path) -> None:
    settings = Settings(temporal_profile="cloud")
    assert not settings.uses_embedded_temporal
    assert connection(settings)["target_host"] == "cloud.invalid:7233"
    assert connection(settings)["namespace"] == "orders.account"


def test_temporal_namespace_overrides_the_profile(profiles: Path) -> None:
    assert connected(temporal_profile="cloud", TEMPORAL_NAMESPACE="mine")["namespace"] == "mine"


def test_key_and_namespace_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "cloud.invalid:7233")
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "orders.account")
    monkeypatch.setenv("TEMPORAL_API_KEY", "key")
    assert connected() == {
        "target_host": "cloud.invalid:7233",
        "namespace": "orders.account",
        "api_key": "key",
        "tls": True,
    }


@pytest.mark.parametrize("profile", ["unknown", "no-address"])
def test_a_profile_without_an_address_is_rejected(profiles: Path, profile: str) -> None:
    with pytest.raises(SettingsError):
        connected(temporal_profile=profile)


def test_older_setting_names_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", "postgresql://db.invalid/orders")
    monkeypatch.setenv("TEMPORAL_HOST", "server.invalid")
    monkeypatch.setenv("ORDER_WORKFLOW_TIMEOUT_SECONDS", "20")
    monkeypatch.setenv("PORT_BASE", "9000")
    settings = Settings.load()
    assert settings.database_url == "postgresql://db.invalid/orders"
    assert settings.order_deadline_seconds == 20
    # PORT_BASE moves the ports of this machine only.
    assert settings.temporal_target == "server.invalid:7233"
    monkeypatch.setenv("TEMPORAL_PORT", "7000")
    assert Settings.load().temporal_target == "server.invalid:7000"


@pytest.mark.parametrize("line", ['api_key = "tkey-secret', 'api_key = ["tkey-secret"]'])
def test_an_unreadable_configuration_is_not_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text(f'[profile.default]\naddress = "other.invalid:7233"\n{line}\n')
    with pytest.raises(SettingsError, match=r"cannot be read: .*TOML parse error at line 3") as refused:
        connection(Settings(temporal_config_file=file))
    assert "tkey-secret" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_white_space_around_the_key_of_temporal_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", " tkey-secret\r\n")
    assert connection(Settings(temporal_address="other.invalid:7233"))["api_key"] == "tkey-secret"


@pytest.mark.parametrize("key", ["tkey secret", '"tkey-secret"', "tkéy-secret"])
def test_a_text_that_no_key_of_temporal_can_be_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", key)
    with pytest.raises(SettingsError, match="TEMPORAL_API_KEY, or api_key of the profile") as refused:
        connection(Settings(temporal_address="other.invalid:7233"))
    assert "secret" not in str(refused.value)


def test_a_client_key_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "client.key"
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_CERT_PATH", __file__)
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY_PATH", str(key))
    settings = Settings(_env_file=None, temporal_address="temporal.invalid:7233")  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match=rf"User \d+ cannot read {key} .*: No such file or directory; "):
        connection(settings)
