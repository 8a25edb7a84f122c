"""A pool for tests that do not test the pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from db.database import Database

PATIENCE_SECONDS = 30.0
"""The product gives up after a second, so that a busy API can still respond. On a busy machine a test may
wait longer for a connection, above all when PostgreSQL must first start a process for it."""


@asynccontextmanager
async def patient_pool(url: str, application_name: str) -> AsyncIterator[Database]:
    """A pool of 16 connections whose callers wait up to PATIENCE_SECONDS for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("db.database.ACQUIRE_TIMEOUT_SECONDS", PATIENCE_SECONDS)
        database = Database(url, max_size=16, application_name=application_name)
    async with database:
        yield database
