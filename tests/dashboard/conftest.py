"""A database with known orders, and pages that read it: AppTest runs them in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from psycopg.conninfo import make_conninfo
from streamlit.testing.v1 import AppTest

from dashboard.data import clients
from db.read_only_database import ROLE, ReadOnlyDatabase
from loadtest.bench.seed import seed
from tests.ports import free_port_base
from tests.servers import PostgresServer, postgres_server

PAGES = Path(clients.__file__).parents[1] / "pages"
NAMES = ("overview", "orders", "reviews", "latency", "load_tests", "audit")
SEEDED = 3_000
DAYS = 2


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
    """Empty books."""
    with postgres.fresh_database() as url:
        yield url


@pytest.fixture(scope="session")
def seeded(seeded_url: str) -> Iterator[ReadOnlyDatabase]:
    reader = reader_of(seeded_url)
    yield reader
    reader.close()


def reader_of(url: str) -> ReadOnlyDatabase:
    return ReadOnlyDatabase(make_conninfo(url, user=ROLE))


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["Pages"]:
    pages = Pages(monkeypatch, tmp_path)
    yield pages
    pages.forget()


class Pages:
    """Runs pages against a database of the test's choice; no API answers unless one is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(home)
        monkeypatch.setenv("ORDERS_HOME", str(home))
        monkeypatch.setenv("PORT_BASE", str(free_port_base()))

    def run(self, name: str, url: str, **query: str) -> AppTest:
        """The page after its first run."""
        self.forget()
        self._monkeypatch.setenv("DATABASE_URL", url)
        test = AppTest.from_file(str(PAGES / f"{name}.py"), default_timeout=60)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    def forget(self) -> None:
        """Closes what the pages share, so that the next one reads from elsewhere."""
        clients.reader.clear()
        st.cache_resource.clear()
        st.cache_data.clear()


def said(test: AppTest) -> str:
    """Every text of a page, for a look at what it says."""
    kinds = (test.markdown, test.caption, test.error, test.info, test.title, test.subheader, test.text)
    return "\n".join(str(element.value) for kind in kinds for element in kind)
