"""The health check of a container."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.settings import Settings
from orchestrator.worker import liveness_file
from tests.deployment import compose


@contextmanager
def http_server(status: int, path: str = "/health") -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == path else 404)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Logs nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{path}"
        finally:
            server.shutdown()
            thread.join()


def test_a_process_is_healthy_when_it_returns_200() -> None:
    with http_server(200) as url:
        assert liveness_file.failure(url) is None
    with http_server(503) as url:
        assert "503" in str(liveness_file.failure(url))
    assert "refused" in str(liveness_file.failure(url))


@pytest.mark.parametrize("base_path", ["", "/dash", "/dash/"])
def test_the_health_check_of_the_dashboard_below_a_path(base_path: str) -> None:
    checked = compose.services({"DASHBOARD_BASE_PATH": base_path})["dashboard"].health_check[-1]
    served = Settings(dashboard_base_path=base_path).dashboard_base_path + "/_stcore/health"
    with http_server(200, served) as url:
        server = url.removesuffix(served)
        assert liveness_file.failure(checked.replace("http://127.0.0.1:8501", server)) is None


def test_a_process_is_healthy_while_its_file_is_fresh(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert "cannot be read" in str(liveness_file.failure(str(file)))
    liveness_file.touch(file)
    assert liveness_file.failure(str(file)) is None
    long_ago = time.time() - liveness_file.MAX_AGE_SECONDS - 5
    os.utime(file, (long_ago, long_ago))
    assert "was last touched 15 s ago" in str(liveness_file.failure(str(file)))


async def test_the_event_loop_touches_the_file(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    task = asyncio.create_task(liveness_file.keep_touching(file))
    await asyncio.sleep(0)
    assert file.exists()
    task.cancel()


def test_a_check_imports_little() -> None:
    """These modules take several times as long as the check itself."""
    for target in ("/nowhere/alive", "http://127.0.0.1:1/health"):
        done = subprocess.run(
            [sys.executable, "-S", "-X", "importtime", liveness_file.__file__, target],
            capture_output=True, text=True,
        )  # fmt: skip
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
        assert "posixpath" in imported
        assert not imported & {
            "asyncio",
            "http.client",
            "urllib.request",
            "email",
            "ssl",
            "pathlib",
            "re",
            "typing",
        }


@pytest.mark.parametrize("fresh", [True, False])
def test_the_exit_code_is_1_for_an_unhealthy_process(tmp_path: Path, fresh: bool) -> None:
    file = tmp_path / "alive"
    if fresh:
        file.touch()
    done = subprocess.run(
        [sys.executable, "-S", PROJECT_ROOT / "orchestrator" / "worker" / "liveness_file.py", str(file)],
        cwd=PROJECT_ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, "cannot be read" in done.stderr) == ((0, False) if fresh else (1, True))
