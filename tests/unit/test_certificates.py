"""HTTPS with a private certificate authority, and rejected certificates, in every client of the API."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loadtest.generator.api_client import ApiClient
from loadtest.preflight import check_api
from orchestrator.cli import run
from orchestrator.errors import OrderSystemError, TemporalUnavailable, UsageError
from orchestrator.operations.doctor.machine import check_api as doctor_check_api
from orchestrator.rest_client import CertificateRejected, RestClient
from orchestrator.security.certificates import client_context
from orchestrator.settings import Settings
from orchestrator.temporal.client import connect
from tests.tls import Authority, https_server, postgres_handshakes

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _no_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def url(authority: Authority) -> Iterator[str]:
    with https_server(authority.issue(authority.file.parent)) as url:
        yield url


def rest_client(url: str) -> None:
    with RestClient(url) as client:
        assert client.get("/health") == {"status": "healthy", "role": "operator"}


def load_generator(url: str) -> None:
    client = ApiClient(url)
    try:
        check_api(client, url)
    finally:
        client.close()


CLIENTS = [rest_client, load_generator]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_private_authority_is_trusted(
    authority: Authority,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    client: Callable[[str], None],
    variable: str,
    tmp_path: Path,
) -> None:
    path = authority.file
    if variable == "SSL_CERT_DIR":
        if shutil.which("openssl") is None:
            pytest.skip("the program openssl is missing")
        # OpenSSL finds a certificate by the hash of its subject.
        command = ["openssl", "x509", "-hash", "-noout", "-in", str(path)]
        subject_hash = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
        shutil.copy(path, tmp_path / f"{subject_hash}.0")
        path = tmp_path
    monkeypatch.setenv(variable, str(path))
    client(url)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_unknown_authority_is_named(url: str, client: Callable[[str], None]) -> None:
    with pytest.raises(OrderSystemError, match=r"certificate of .*https.* rejected: .*set SSL_CERT_FILE"):
        client(url)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_expired_certificate_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, client: Callable[[str], None]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    expired = datetime.now(UTC) - timedelta(hours=1)
    with (
        https_server(authority.issue(authority.file.parent, expires=expired)) as url,
        pytest.raises(OrderSystemError, match=r"rejected: certificate has expired; renew it"),
    ):
        client(url)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_of_another_address_is_named(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, client: Callable[[str], None]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    with (
        https_server(authority.issue(authority.file.parent, address="192.0.2.1")) as url,
        pytest.raises(OrderSystemError, match=r"rejected: IP address mismatch.*; use an address"),
    ):
        client(url)


def test_the_command_line_names_a_rejected_certificate(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "a", "--api-url", url]) == 1
    printed = capsys.readouterr()
    assert f"the certificate of the API at {url} is rejected" in printed.err
    assert "make up" not in printed.err


def test_doctor_names_a_rejected_certificate(
    url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(configured_api_url=url)
    (finding,) = asyncio.run(doctor_check_api(settings, is_embedded=False)).findings
    assert "certificate of the API is rejected" in finding.message
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert asyncio.run(doctor_check_api(settings, is_embedded=False)).findings == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unusable_file_of_authorities_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(UsageError, match=r"SSL_CERT_FILE .* cannot be used"):
        client_context("https://orders.example.com")
    client_context("http://orders.example.com")


def test_a_rejected_certificate_is_not_an_unavailable_api(url: str) -> None:
    with pytest.raises(CertificateRejected), RestClient(url) as client:
        client.post("/orders/a/start", {})


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_rejected_certificate_of_the_database_is_named(
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_trusted: bool,
) -> None:
    other_address = authority.issue(authority.file.parent, address="192.0.2.1")
    root = authority.file if is_trusted else other_address
    with postgres_handshakes(other_address) as port:
        url = f"postgresql://orders@127.0.0.1:{port}/orders?sslmode=verify-full&sslrootcert={root}"
        monkeypatch.setenv("DATABASE_URL", url)
        assert run(["keys", "list"]) == 1
    assert "The database's certificate is rejected. Check sslrootcert" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("server_name", "reason"), [(None, "UnknownIssuer"), ("other.example", "NotValidForName")]
)
async def test_a_rejected_certificate_of_temporal_is_named(
    url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch, server_name: str | None, reason: str
) -> None:
    monkeypatch.setenv("TEMPORAL_TLS", "true")
    if server_name is not None:
        monkeypatch.setenv("TEMPORAL_TLS_SERVER_CA_CERT_PATH", str(authority.file))
        monkeypatch.setenv("TEMPORAL_TLS_SERVER_NAME", server_name)
    settings = Settings(temporal_address=url.removeprefix("https://"))
    with pytest.raises(TemporalUnavailable, match=f"certificate .* is rejected: {reason}"):
        await connect(settings)
