"""A connection pool with a long acquire timeout, for tests on a busy machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from db.database import Database

ACQUIRE_TIMEOUT_SECONDS = 30.0
"""`db.database.ACQUIRE_TIMEOUT_SECONDS` is a second, so that a busy API can still respond. A test may wait
longer for a connection, above all when PostgreSQL must first start a process for it."""


@asynccontextmanager
async def patient_pool(url: str, application_name: str) -> AsyncIterator[Database]:
    """Yield a pool of 16 connections whose callers wait up to 30 s for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("db.database.ACQUIRE_TIMEOUT_SECONDS", ACQUIRE_TIMEOUT_SECONDS)
        database = Database(url, max_size=16, application_name=application_name)
    async with database:
        yield database
