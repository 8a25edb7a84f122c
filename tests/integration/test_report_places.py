"""Reports that last keep nobody else waiting, and one too many is told when to come again."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.types import Message

from db.read_models import order_details
from orchestrator.api import models, report_limiter
from orchestrator.api.app import create_app
from orchestrator.api.latency_csv import COLUMNS, ROWS_AT_A_TIME
from orchestrator.api.report_limiter import Report
from orchestrator.settings import Settings

ROWS = "select {} from generate_series(1, 5 * %(at_a_time)s)".format(
    ", ".join(f"null as {column}" for column in COLUMNS)
)
"""More than one piece of a file, so that it is not read to its end before anybody takes the first."""

NOBODY_LISTENS = "127.0.0.1:9"
HOST = "127.0.0.1"


@pytest_asyncio.fixture
async def app(order_database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastAPI]:
    monkeypatch.setattr(report_limiter, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(
        order_details,
        "latency_rows",
        lambda repository, _: repository.stream(ROWS, {"at_a_time": ROWS_AT_A_TIME}),
    )
    app = create_app(Settings(database_url=order_database_url, temporal_address=NOBODY_LISTENS))
    async with app.router.lifespan_context(app):
        yield app


@pytest_asyncio.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{HOST}") as client:
        yield client


@asynccontextmanager
async def download_that_is_not_read(app: FastAPI) -> AsyncIterator[None]:
    """From the beginning of the answer until the reader goes away."""
    has_begun, goes_on = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        has_begun.set()
        await goes_on.wait()

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": "/latency.csv", "raw_path": b"/latency.csv",
        "query_string": b"", "root_path": "", "headers": [(b"host", HOST.encode())], "server": (HOST, 80),
    }  # fmt: skip
    reader = asyncio.create_task(app(scope, receive, send))
    await has_begun.wait()
    try:
        yield
    finally:
        goes_on.set()
        await reader


def is_told_to_come_again(answer: httpx.Response) -> bool:
    problem = models.Problem.model_validate(answer.json())
    return problem.status == answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1


async def test_downloads_that_nobody_reads_take_nobody_elses_place(
    app: FastAPI, api: httpx.AsyncClient
) -> None:
    assert Report.EXPORT.at_once == 2
    async with download_that_is_not_read(app), download_that_is_not_read(app):
        assert is_told_to_come_again(await api.get("/latency.csv"))
        assert (await api.get("/latency")).status_code == 200
        assert "database_connected 1.0" in (await api.get("/metrics")).text
        # It has its connections, and only Temporal is not there.
        assert "Temporal" in (await api.get("/audit")).json()["detail"]
    assert (await api.get("/latency.csv")).status_code == 200, "the places are free again"


async def test_one_audit_at_a_time(app: FastAPI, api: httpx.AsyncClient) -> None:
    async with app.state.context.places.of(Report.AUDIT):
        assert is_told_to_come_again(await api.get("/audit"))
        lines = (await api.get("/audit", params={"progress": "true"})).text.splitlines()
    assert json.loads(lines[-1])["problem"]["status"] == 429


async def test_a_report_waits_a_moment_for_its_turn(
    app: FastAPI, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_limiter, "PATIENCE_SECONDS", 20.0)
    async with app.state.context.places.of(Report.SUMMARY):
        asked = asyncio.create_task(api.get("/latency"))
        done, _ = await asyncio.wait({asked}, timeout=0.2)
        assert not done
    assert (await asked).status_code == 200
