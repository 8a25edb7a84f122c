"""The dashboard below a path, behind a real nginx with the shipped configuration."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_websocket

from dashboard.proxy_check import NO_UPGRADE
from tests.deployment.test_nginx import DASHBOARD, Proxy, no_verification, running_nginx
from tests.integration.test_access import make_key, responses, started
from tests.live import eventually
from tests.servers import PostgresServer

BASE_PATH = "/dash"


@dataclass(frozen=True)
class Served:
    proxy: Proxy
    direct_url: str
    log: Path
    key: str

    @property
    def origin(self) -> str:
        return f"{DASHBOARD}:{self.proxy.port}"

    @contextmanager
    def signed_in(self) -> Iterator[httpx.Client]:
        with self.proxy.client(self.origin) as client:
            response = client.post(f"{BASE_PATH}/login", data={"key": self.key})
            assert (response.status_code, response.headers["location"]) == (303, f"{BASE_PATH}/")
            yield client

    def open_stream(self, origin: str) -> None:
        """Open the WebSocket connection of a page and close it. Raises InvalidStatus when it is rejected."""
        with self.signed_in() as client:
            cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        with connect_websocket(
            f"wss://{self.origin}{BASE_PATH}/_stcore/stream",
            sock=socket.create_connection(("127.0.0.1", self.proxy.port)),
            ssl=no_verification(),
            server_hostname=DASHBOARD,
            additional_headers={"Cookie": cookie},
            origin=origin,
            subprotocols=["streamlit"],
            proxy=None,
        ):
            pass


@pytest.fixture(scope="module")
def served(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("proxied")
    log = directory / "dashboard.log"
    with (
        postgres.fresh_database() as url,
        started(url, "the API", directory / "api.log") as api,
        started(
            url,
            "the dashboard",
            log,
            API_URL=f"http://127.0.0.1:{api}",
            DASHBOARD_BASE_PATH=BASE_PATH,
        ) as port,
        running_nginx(directory, port + 1) as proxy,
    ):
        key = make_key(url, "ada", "viewer")
        direct_url = f"http://127.0.0.1:{port + 1}{BASE_PATH}"
        eventually(lambda: responses(f"http://127.0.0.1:{api}/health"))
        eventually(lambda: (found := responses(f"{direct_url}/_stcore/health")) and found.status_code == 200)
        # The API rejects requests without a key once it has seen the new key.
        eventually(lambda: (found := responses(f"{direct_url}/")) and found.status_code == 401)
        yield Served(proxy, direct_url, log, key)


def test_pages_assets_and_the_export_are_served_below_the_path(served: Served) -> None:
    with served.signed_in() as client:
        for path in ("/", "/orders", "/latency"):
            page = client.get(BASE_PATH + path)
            assert (page.status_code, "<title>Streamlit</title>" in page.text) == (200, True)
        assert f'"{BASE_PATH}/"' in client.get(f"{BASE_PATH}/orders").text
        script = page.text.partition('src="./')[2].partition('"')[0]
        assert (
            client.get(f"{BASE_PATH}/{script}")
            .headers["content-type"]
            .partition(";")[0]
            .endswith("/javascript")
        )
        export = client.get(f"{BASE_PATH}/export/latency.csv")
        assert export.text.startswith("order_id,")
        assert client.get("/orders").status_code == 401, "the cookie is for the path alone"
        without_slash = client.get(BASE_PATH, follow_redirects=True)
        assert (without_slash.status_code, without_slash.url.path) == (200, f"{BASE_PATH}/")


def test_a_page_can_open_its_websocket_through_the_proxy(served: Served) -> None:
    served.open_stream(f"https://{served.origin}")


def test_a_replaced_host_header_is_named_as_the_reason(served: Served) -> None:
    with pytest.raises(InvalidStatus) as rejected:
        served.open_stream("https://another.example")
    reason = f"The browser's address is another.example and the Host header is {served.origin}"
    assert rejected.value.response.status_code == 403
    assert reason in (rejected.value.response.body or b"").decode()
    eventually(lambda: reason in served.log.read_text())


def test_a_proxy_without_websockets_is_named_as_the_reason(served: Served) -> None:
    response = httpx.get(f"{served.direct_url}/_stcore/stream", trust_env=False)
    assert (response.status_code, response.text.strip()) == (426, NO_UPGRADE)
    eventually(lambda: "does not forward WebSocket connections" in served.log.read_text())
