"""The bulkhead for reports: long reports do not delay other requests, and too many receive 429."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.types import Message

from db.read_models import latency_report
from orchestrator.api import report_limiter
from orchestrator.api.app import create_app
from orchestrator.api.report_limiter import Report
from orchestrator.api.schemas.responses import Problem
from orchestrator.settings import Settings

ROWS = "select * from generate_series(1, 1000000)"
"""Several chunks, so that the query does not finish before the client reads the first chunk."""

NOBODY_LISTENS = "127.0.0.1:9"
HOST = "127.0.0.1"


@pytest_asyncio.fixture
async def app(order_database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastAPI]:
    monkeypatch.setattr(report_limiter, "MAX_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(
        latency_report,
        "stream_latency_csv",
        lambda database, _: database.copy_csv(ROWS),
    )
    app = create_app(Settings(database_url=order_database_url, temporal_address=NOBODY_LISTENS))
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}") as client:
        yield client


@asynccontextmanager
async def stalled_download(app: FastAPI) -> AsyncIterator[None]:
    """A download whose client stops reading after the first bytes."""
    has_started, continues = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        has_started.set()
        await continues.wait()

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": "/latency.csv", "raw_path": b"/latency.csv",
        "query_string": b"", "root_path": "", "headers": [(b"host", HOST.encode())], "server": (HOST, 80),
        "client": (HOST, 50_000),
    }  # fmt: skip
    reader = asyncio.create_task(app(scope, receive, send))
    await has_started.wait()
    try:
        yield
    finally:
        continues.set()
        await reader


def is_rejected(response: httpx.Response) -> bool:
    problem = Problem.model_validate(response.json())
    return problem.status == response.status_code == 429 and int(response.headers["retry-after"]) >= 1


async def test_stalled_downloads_do_not_block_other_reports(app: FastAPI, api: httpx.AsyncClient) -> None:
    assert Report.EXPORT.max_running == 2
    async with stalled_download(app), stalled_download(app):
        assert is_rejected(await api.get("/latency.csv"))
        assert (await api.get("/latency")).status_code == 200
        assert "database_connected 1.0" in (await api.get("/metrics")).text
        # The audit gets its connections, and fails for Temporal only.
        assert "Temporal" in (await api.get("/audit")).json()["detail"]
    assert (await api.get("/latency.csv")).status_code == 200, "the slots are free again"


async def test_a_second_audit_at_the_same_time_is_rejected(app: FastAPI, api: httpx.AsyncClient) -> None:
    async with app.state.context.report_limiter.slot(Report.AUDIT):
        assert is_rejected(await api.get("/audit"))


async def test_the_audit_of_a_load_test_does_not_wait_for_other_audits(
    app: FastAPI, api: httpx.AsyncClient
) -> None:
    async with app.state.context.report_limiter.slot(Report.AUDIT):
        response = await api.get("/audit?run_id=run-1")
        assert "Temporal" in response.json()["detail"], "it fails for Temporal only"
    async with app.state.context.report_limiter.slot(Report.RUN_AUDIT):
        assert is_rejected(await api.get("/audit?run_id=run-1"))


async def test_a_report_waits_for_a_free_slot(
    app: FastAPI, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_limiter, "MAX_WAIT_SECONDS", 20.0)
    async with app.state.context.report_limiter.slot(Report.SUMMARY):
        pending = asyncio.create_task(api.get("/latency"))
        done, _ = await asyncio.wait({pending}, timeout=0.2)
        assert not done
    assert (await pending).status_code == 200
