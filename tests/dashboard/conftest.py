"""Databases with known orders, and pages that read them: AppTest runs a page in this process."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import streamlit as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from streamlit.testing.v1 import AppTest

from dashboard import first_screen
from dashboard.data import clients
from db.domain import State
from db.orders import OrderRepository
from db.read_models import latency
from db.read_models.latency import Selection
from db.read_only_database import ROLE, ReadOnlyDatabase
from loadtest.bench.seed import seed
from tests.orders import TEMPORAL, OrderDriver
from tests.patient_pool import ACQUIRE_TIMEOUT_SECONDS, patient_pool
from tests.ports import free_port_base
from tests.servers import PostgresServer, postgres_server

PAGES = Path(clients.__file__).parents[1] / "pages"
NAMES = ("overview", "orders", "reviews", "latency", "load_tests", "audit")
SEEDED = 3_000
DAYS = 2
NO_API = "No connection to the API\\: start the stack with \\`make up\\`\\."


@pytest.fixture(autouse=True)
def silence_logs() -> None:
    """Hide the expected warnings: no browser, no database."""
    for name in ("streamlit", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def drawn() -> Iterator[dict[str, bool]]:
    """AppTest draws nothing: give the state of the component that signals the end of the drawing."""
    state = {"is_drawn": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_screen, "WHEN_DRAWN", lambda **_: state)
        yield state


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def seeded_url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.fresh_database() as url:
        seed(url, SEEDED, days=DAYS, progress=lambda _: None)
        yield url


@pytest.fixture(scope="module")
def order_database_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database, shared by the tests of a module."""
    with postgres.fresh_database() as url:
        yield url


@pytest.fixture(scope="session")
def seeded(seeded_url: str) -> Iterator[ReadOnlyDatabase]:
    database = reader_of(seeded_url)
    yield database
    database.close()


@pytest.fixture
async def driver(order_database_url: str) -> AsyncIterator[OrderDriver]:
    async with patient_pool(order_database_url, "tests") as database:
        yield OrderDriver(OrderRepository(database, "w", TEMPORAL), database)


def reader_of(url: str) -> ReadOnlyDatabase:
    """Return a connection pool of the dashboard, with a long acquire timeout for busy machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("db.read_only_database.ACQUIRE_TIMEOUT_SECONDS", ACQUIRE_TIMEOUT_SECONDS)
        return ReadOnlyDatabase(make_conninfo(url, user=ROLE))


def query(url: str, statement: str, parameters: dict | None = None) -> list[dict]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(statement, parameters).fetchall()


def some_run(database: ReadOnlyDatabase) -> str:
    return latency.run_names(database)[0]["run_id"]


def selections(database: ReadOnlyDatabase) -> list[Selection]:
    plan = latency.plan(database, Selection())
    middle = plan.since + (plan.until - plan.since) / 3
    return [
        Selection(),
        Selection(run_id=some_run(database)),
        Selection(outcome=State.CANCELLED),
        Selection(fault_profile="assignment"),
        Selection(since=middle),
        Selection(until=middle),
        Selection(since=middle, until=middle + timedelta(hours=7, minutes=13), fault_profile="none"),
        Selection(since=middle, until=middle + timedelta(minutes=1)),
    ]


@pytest.fixture(params=range(8))
def selection(request, seeded: ReadOnlyDatabase) -> Selection:
    return selections(seeded)[request.param]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["Pages"]:
    pages = Pages(monkeypatch, tmp_path)
    yield pages
    pages.reset()


class Pages:
    """Runs pages against a database of the test. No API responds unless the test starts one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(home)
        monkeypatch.setenv("ORDERS_HOME", str(home))
        monkeypatch.setenv("PORT_BASE", str(free_port_base()))

    def run(self, name: str, url: str, **query: str) -> AppTest:
        """Return the page after its first run."""
        self.reset()
        self._monkeypatch.setenv("DATABASE_URL", url)
        # On a busy machine, PostgreSQL can need more than a second for a new connection.
        seconds = 1.0 if "/nowhere" in url else ACQUIRE_TIMEOUT_SECONDS
        self._monkeypatch.setattr("db.read_only_database.ACQUIRE_TIMEOUT_SECONDS", seconds)
        test = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    def reset(self) -> None:
        """Close the shared clients and clear all caches, so that the next page reads another database."""
        clients.database.clear()
        st.cache_resource.clear()
        st.cache_data.clear()


def texts(test: AppTest) -> str:
    """Return every text of a page."""
    kinds = (test.markdown, test.caption, test.error, test.info, test.title, test.subheader, test.text)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def plain(markdown: str) -> str:
    """Return a text without the escapes of `plain_text.markdown`."""
    return markdown.replace("\\", "")


def figures_of(test: AppTest) -> dict[str, dict[str, Any]]:
    """Return the Plotly figures of a page by the keys of their elements."""
    components = [each.proto for each in test.get("bidi_component")]
    return {
        each.id.split("-", 2)[2]: json.loads(json.loads(each.json)["figure"])
        for each in components
        if each.component_name == "plotly_figure"
    }


def metrics_of(test: AppTest) -> dict[str, str]:
    """Return the values of the metrics of a page by their labels."""
    return {metric.label: metric.value for metric in test.metric}
