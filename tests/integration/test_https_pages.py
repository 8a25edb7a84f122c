"""The dashboard and Locust's page with an API that has a certificate of a private authority."""

from pathlib import Path

import httpx

from orchestrator.security.key_hashing import new_key
from tests.integration.test_access import responses, started
from tests.live import eventually
from tests.servers import PostgresServer
from tests.tls import Authority, https_server


def test_pages_trust_a_private_authority_and_name_a_rejected_certificate(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    authority, key = Authority.create(tmp_path), new_key()
    trusted = {"SSL_CERT_FILE": str(authority.file)}
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    with (
        postgres.fresh_database() as url,
        https_server(authority.issue(tmp_path)) as api,
        started(url, "the web UI of the load tests", logs[0], API_URL=api, **trusted) as locust,
        started(url, "the web UI of the load tests", logs[1], API_URL=api) as distrusting,
        started(url, "the dashboard", logs[2], API_URL=api, **trusted) as dashboard,
    ):
        for port in (locust, distrusting):
            eventually(lambda port=port: responses(f"http://127.0.0.1:{port + 2}/alive"))
        assert httpx.get(f"http://127.0.0.1:{locust + 2}/", auth=("x", key)).status_code == 200
        refused = httpx.get(f"http://127.0.0.1:{distrusting + 2}/", auth=("x", key))
        assert refused.status_code == 503
        assert f"the certificate of the API at {api} is rejected" in refused.text
        page = f"http://127.0.0.1:{dashboard + 1}"
        eventually(lambda: responses(f"{page}/_stcore/health"))
        assert httpx.post(f"{page}/login", data={"key": key}).status_code == 303
