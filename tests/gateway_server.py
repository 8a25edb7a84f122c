"""The server of the gateway `http`, as a process."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.ports import free_port_base

TOKEN = "gateway-token"
STARTUP_SECONDS = 60.0


@contextmanager
def gateway_server(
    database_url: str | None = None,
    url: str | None = None,
    certificate: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run the server and yield its URL, by default with a free port.

    Its records are in this database, by default in one of the stack of `environment`. With a `certificate`, a
    file that also has its key, the server speaks HTTPS.
    """
    scheme = "https" if certificate else "http"
    url = url or f"{scheme}://127.0.0.1:{free_port_base()}"
    command = [sys.executable, "-m", "orchestrator.gateways.server"]
    options = ["--port", url.rpartition(":")[2]]
    # Everyone on the machine can read the words of a command, so secrets are not among them.
    settings = os.environ | {"HTTP_GATEWAY_TOKEN": TOKEN} | (environment or {})
    if database_url:
        settings["GATEWAY_DATABASE_URL"] = database_url
    if certificate:
        options += ["--certificate", str(certificate), "--key", str(certificate)]
    process = subprocess.Popen([*command, *options], cwd=PROJECT_ROOT, env=settings)
    try:
        not_after = monotonic() + STARTUP_SECONDS
        while not _responds(url):
            assert process.poll() is None, "the gateway server ended"
            assert monotonic() < not_after, "the gateway server does not respond"
            sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _responds(url: str) -> bool:
    try:
        return httpx.get(f"{url}/openapi.json", verify=False).is_success
    except httpx.TransportError:
        return False
