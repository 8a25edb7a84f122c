"""The books come back for those who asked while they were away."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from db.database import MAX_WAITING, Database
from orchestrator.errors import DatabaseUnavailable
from tests.servers import PostgresServer

BACK_SECONDS = 10.0


async def ask(repository: Database) -> bool:
    try:
        return await repository.fetch_one("select 1 as answer") == {"answer": 1}
    except DatabaseUnavailable:
        return False


@pytest.mark.parametrize("callers", [1, MAX_WAITING + 50])
async def test_callers_in_vain_do_not_keep_the_next_from_a_connection(
    postgres: PostgresServer, tmp_path: Path, callers: int
) -> None:
    # Nobody listens there, until the link leads to the server.
    link = tmp_path / "run"
    async with Database(f"postgresql://postgres@/postgres?host={link}&sslmode=disable") as repository:
        for _ in range(2):
            assert not any(await asyncio.gather(*(ask(repository) for _ in range(callers))))
        link.symlink_to(postgres.socket_dir)
        not_after = monotonic() + BACK_SECONDS
        while not await ask(repository):
            assert monotonic() < not_after, "the books are back, and nobody notices"
            await asyncio.sleep(0.05)


async def test_connections_that_ended_while_idle_cost_nobody_a_statement(postgres: PostgresServer) -> None:
    async with Database(postgres.url("orders"), max_size=4, application_name="idle") as repository:
        all_are_there = asyncio.Barrier(4)

        async def pid_of_its_own() -> int:
            async with aclosing(repository.stream("select pg_backend_pid() as pid")) as rows:
                row = await anext(rows)
                await all_are_there.wait()
            return int(row["pid"])

        pids = await asyncio.gather(*(pid_of_its_own() for _ in range(4)))
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as administrator:
            for pid in pids:
                administrator.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        assert all(await asyncio.gather(*(ask(repository) for _ in range(4))))
