"""The latency CSV: equal to that of the API, escaped, filtered, and streamed over HTTP."""

import csv
import io
from contextlib import closing
from unittest.mock import patch

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from dashboard import export
from dashboard.data import clients
from db.database import CHUNK_BYTES, Database
from db.domain import State
from db.read_models import latency, latency_report
from db.read_models.latency import Selection
from db.read_models.latency_report import LatencyFilter
from db.read_only_database import ReadOnlyDatabase
from tests.dashboard.conftest import reader_of, some_run
from tests.orders import new_order


async def test_the_csv_equals_that_of_the_api_byte_for_byte(seeded, seeded_url):
    run_id = some_run(seeded)
    async with Database(seeded_url) as database:
        from_api = [
            chunk async for chunk in latency_report.stream_latency_csv(database, LatencyFilter(run_id))
        ]
    exported_csv = b"".join(latency_report.latency_csv(seeded, Selection(run_id=run_id)))
    assert exported_csv == b"".join(from_api)
    assert exported_csv.count(b"\n") > 50


async def test_the_csv_escapes_formulas_and_no_negative_integer(driver, order_database_url):
    order_id = f"-{new_order().order_id}"
    await driver.carry_to(
        State.COMPLETED, new_order(order_id=order_id, payment_id=f"p{order_id}", run_id="-1")
    )
    database = reader_of(order_database_url)
    text = b"".join(latency_report.latency_csv(database, Selection(run_id="-1"))).decode()
    database.close()
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["order_id"], row["run_id"]) == (f"'{order_id}", "-1")


def test_the_csv_has_the_orders_of_the_filter(seeded, selection):
    text = b"".join(latency_report.latency_csv(seeded, selection)).decode()
    found = list(csv.DictReader(io.StringIO(text)))
    plan = latency.plan(seeded, selection)
    summary = latency.summary(seeded, plan)
    assert len(found) == summary.orders
    assert sum(row["within_limit"] == "false" for row in found) == summary.late


def test_an_export_is_streamed_in_large_chunks(seeded):
    chunks = list(latency_report.latency_csv(seeded, Selection()))
    total = sum(map(len, chunks))
    assert total > 2 * CHUNK_BYTES
    assert all(CHUNK_BYTES <= len(chunk) <= 1.1 * CHUNK_BYTES for chunk in chunks[:-1])
    assert len(chunks) == total // len(chunks[0]) + 1


async def get_csv(url: str, **query: str) -> httpx.Response:
    database = ReadOnlyDatabase(url)
    app = Starlette(routes=[Route(export.PATH, export.export)])
    transport = httpx.ASGITransport(app)
    with patch.object(clients, "database", lambda: database), closing(database):
        async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
            return await client.get(export.PATH, params=query)


async def test_the_endpoint_streams_the_selection_of_its_query(seeded, seeded_url):
    run_id = latency.run_names(seeded)[0]["run_id"]
    response = await get_csv(seeded_url, run=run_id, outcome="completed")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/csv")
    assert f"latency-{run_id}.csv" in response.headers["content-disposition"]
    truth = latency.summary(seeded, latency.plan(seeded, Selection(run_id=run_id))).outcomes[State.COMPLETED]
    assert response.text.count("\n") == truth + 1


async def test_without_a_database_the_endpoint_returns_503():
    response = await get_csv("postgresql://orders_reader@/orders?host=/nowhere")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.text == "The database is not responding. Try again shortly."


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "sinse",
            "2030-01-01T00:00:00Z",
            "this page has no parameter 'sinse'; it has run, range, since, until,",
        ),
        ("run_id", "a", "this page has no parameter 'run_id'"),
        ("faults", "neverseen", "unknown fault profile"),
        ("range", "Last century", "unknown time range"),
    ],
)
async def test_a_parameter_that_the_page_reports_is_reported_by_the_export(seeded_url, name, value, message):
    response = await get_csv(seeded_url, **{name: value})
    assert response.status_code == 422
    assert response.text.startswith(message)


async def test_an_rfc_3339_time_filters_the_export(seeded_url):
    for since in ("2030-01-01T00:00:00Z", "2030-01-01T02:00:00.5 02:00"):
        assert (await get_csv(seeded_url, since=since)).text.count("\n") == 1
    assert (await get_csv(seeded_url, since="2000-01-01T00:00:00Z")).text.count("\n") > 1


async def test_an_invalid_query_returns_422(seeded_url):
    response = await get_csv(seeded_url, run="my run")
    assert response.status_code == 422
    assert response.text == "a run id has 1 to 64 letters, digits, '-' or '_'"
    distant = await get_csv(seeded_url, until="9999-12-31T23:59:59")
    assert distant.status_code == 422
    assert distant.text.startswith("'since' and 'until' must be times such as 2026-01-31T12:00 or ")
