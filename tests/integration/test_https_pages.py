"""The dashboard and Locust's page with an API that has a certificate of a private authority."""

from pathlib import Path

import httpx

from orchestrator.security.key_hashing import new_key
from tests.integration.test_access import responses, started
from tests.live import eventually
from tests.servers import PostgresServer
from tests.tls import Authority, https_server


def test_pages_trust_a_private_authority(postgres: PostgresServer, tmp_path: Path) -> None:
    authority, key = Authority.create(tmp_path), new_key()
    logs = tmp_path / "locust.log", tmp_path / "dashboard.log"
    trusted = {"SSL_CERT_FILE": str(authority.file)}
    with (
        postgres.fresh_database() as url,
        https_server(authority.issue(tmp_path)) as api,
        started(url, "the web UI of the load tests", logs[0], API_URL=api, **trusted) as locust,
        started(url, "the dashboard", logs[1], API_URL=api, **trusted) as dashboard,
    ):
        page = f"http://127.0.0.1:{dashboard + 1}"
        for address in (f"http://127.0.0.1:{locust + 2}/alive", f"{page}/_stcore/health"):
            eventually(lambda address=address: responses(address), seconds=60)
        assert httpx.get(f"http://127.0.0.1:{locust + 2}/", auth=("x", key)).status_code == 200
        assert httpx.post(f"{page}/login", data={"key": key}).status_code == 303
