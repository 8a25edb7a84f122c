"""The latency rollup: triggers count every outcome exactly once."""

from concurrent.futures import ThreadPoolExecutor

import psycopg

from db.domain import State
from loadtest.bench.seed import random_order_ids, seed, seed_recent
from tests.dashboard.conftest import query
from tests.orders import new_order

ROLLUP = "select * from latency_rollup order by grain_seconds, at, run_id, outcome, fault_profile, upto_ms"


async def test_triggers_and_rebuild_count_the_same(driver, order_database_url):
    for n in range(12):
        state = (State.COMPLETED, State.CANCELLED, State.FAILED)[n % 3]
        order = new_order(run_id=f"run-{n % 2}" if n % 4 else None)
        await driver.carry_to(state, order)
    counted = query(order_database_url, ROLLUP)
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        connection.execute("select rebuild_latency_rollup()")
    assert query(order_database_url, ROLLUP) == counted
    assert {
        sum(row["orders"] for row in counted if row["grain_seconds"] == grain)
        for grain in (60, 3_600, 86_400)
    } == {12}


def finish_with_sql(url: str, order_id: str, *, commit: bool) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "update orders set state = 'failed', abort_reason = 'terminated',"
            " finished_at = accepted_at + interval '1 s', completion_ms = 1000, end_to_end_ms = 1000,"
            " within_limit = true, ingress_ms = 0, receive_ms = 0, validate_ms = 0, review_ms = 0,"
            " charge_ms = 0, prepare_ms = 0, dispatch_ms = 0, compensate_ms = 0, waiting_ms = 1000,"
            " attempts = 0, failed_attempts = 0, timed_out_attempts = 0 where order_id = %s",
            (order_id,),
        )
        if not commit:
            # Stands for a crash before the commit.
            connection.rollback()


async def test_an_outcome_and_its_count_are_written_in_one_transaction(driver, order_database_url):
    order_id = await driver.open()
    before = query(order_database_url, ROLLUP)
    finish_with_sql(order_database_url, order_id, commit=False)
    assert query(order_database_url, ROLLUP) == before
    finish_with_sql(order_database_url, order_id, commit=True)
    assert (
        sum(row["orders"] for row in query(order_database_url, ROLLUP))
        == sum(row["orders"] for row in before) + 3
    )


async def test_concurrent_outcomes_are_all_counted(driver, order_database_url):
    order_ids = [await driver.open() for _ in range(40)]
    before = sum(row["orders"] for row in query(order_database_url, ROLLUP))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda order_id: finish_with_sql(order_database_url, order_id, commit=True), order_ids))
    assert sum(row["orders"] for row in query(order_database_url, ROLLUP)) == before + 3 * 40


async def test_an_order_stores_the_fault_profile_of_its_acceptance(driver, order_database_url):
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        # accepted_at is truncated to milliseconds: a change within the same millisecond could be later.
        connection.execute(
            "insert into fault_changes (at, profile, seed, rates)"
            " values (clock_timestamp() - interval '1 second', 'lossy', 1, '{}')"
        )
        order_id = await driver.open()
        connection.execute("insert into fault_changes (profile, seed, rates) values ('none', 1, '{}')")
    await driver.abort(order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    assert (await driver.row(order_id))["fault_profile"] == "lossy"


def test_replacing_seeded_orders_removes_their_counts(postgres):
    with postgres.fresh_database() as url:
        seed(url, 300, days=1, progress=lambda _: None)
        for finished in (60, 40):
            seed_recent(url, finished=finished, running=3)
        counted = query(url, ROLLUP)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("select rebuild_latency_rollup()")
        rebuilt = query(url, ROLLUP)
        # A bucket keeps the longest time of a removed order when it also counts other orders.
        assert all(
            row.pop("longest_ms") >= true.pop("longest_ms")
            for row, true in zip(counted, rebuilt, strict=True)
        )
        assert counted == rebuilt
        assert all(not name.startswith(("seed-recent", "seed-running")) for name in random_order_ids(url, 50))
