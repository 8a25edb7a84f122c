"""What the charts read: every figure equals the one that plain SQL over orders and events gives."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from dashboard.view_models.reviews import time_to_decide
from db import disturbances, queries
from db.database import Database
from db.domain import State
from db.orders import OrderRepository
from db.read_models import latency, live_orders, order_search, stored_runs
from db.read_models.latency import EDGES_MS, Selection
from db.read_models.order_search import Search
from db.read_only_database import PIECE_BYTES, STATEMENT_TIMEOUT_MS, ReadOnlyDatabase
from loadtest.bench.seed import seed, seed_now, some_ids
from orchestrator.api import latency_csv
from orchestrator.errors import DatabaseUnavailable, StatementTimeout
from tests.dashboard.conftest import SEEDED, reader_of
from tests.orders import OrderDriver, new_order

SHARES = (0.5, 0.95, 0.99, 1.0)

# The same question, asked of the events alone: when an order was accepted is what its run of events says.
FROM_EVENTS = """
select count(*) as orders, count(*) filter (where ms > 15000) as late,
    percentile_disc(array[0.5, 0.9, 0.95, 0.99, 1.0]) within group (order by ms) as times,
    count(*) filter (where state = 'completed') as completed,
    count(*) filter (where state = 'cancelled') as cancelled,
    count(*) filter (where state = 'failed') as failed
from (
    select e.state, (e.detail ->> 'completion_ms')::int as ms from events e join orders o using (order_id)
    where e.kind = 'outcome'
        and (%(run_id)s::text is null or o.run_id = %(run_id)s)
        and (%(since)s::timestamptz is null or o.accepted_at >= %(since)s)
        and (%(until)s::timestamptz is null or o.accepted_at < %(until)s)
        and (%(outcome)s::order_state is null or e.state = %(outcome)s)
        and (%(fault_profile)s::text is null or %(fault_profile)s = coalesce((
            select profile from fault_changes f
            where f.at <= o.accepted_at order by f.at desc limit 1), 'none'))
) ended
"""


def rows(url: str, query: str, parameters: dict | None = None) -> list[dict]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query, parameters).fetchall()


def some_run(reader: ReadOnlyDatabase) -> str:
    return latency.run_names(reader)[0]["run_id"]


def selections(reader: ReadOnlyDatabase) -> list[Selection]:
    how = latency.plan(reader, Selection())
    middle = how.since + (how.until - how.since) / 3
    return [
        Selection(),
        Selection(run_id=some_run(reader)),
        Selection(outcome=State.CANCELLED),
        Selection(fault_profile="assignment"),
        Selection(since=middle),
        Selection(until=middle),
        Selection(since=middle, until=middle + timedelta(hours=7, minutes=13), fault_profile="none"),
        Selection(since=middle, until=middle + timedelta(minutes=1)),
    ]


@pytest.fixture(params=range(8))
def selection(request, seeded):
    return selections(seeded)[request.param]


@pytest.fixture(params=["exact", "rollup"])
def way(request, monkeypatch):
    """Reads the same selection from the orders, and from the rollups."""
    if request.param == "rollup":
        monkeypatch.setattr(latency, "EXACT_ORDERS", -1)
    return request.param


def test_the_summary_equals_plain_sql_over_the_events(seeded, seeded_url, selection, way):
    (truth,) = rows(seeded_url, FROM_EVENTS, selection.parameters())
    how = latency.plan(seeded, selection)
    assert how.is_exact == (way == "exact" or selection.run_id is not None)
    found = latency.summary(seeded, how)
    assert (found.orders, found.late) == (truth["orders"], truth["late"])
    assert {state.value: n for state, n in found.outcomes.items()} == {
        name: truth[name] for name in ("completed", "cancelled", "failed")
    }
    if not truth["orders"]:
        return
    for share, true_ms in zip(latency.SHARES, truth["times"], strict=True):
        if how.is_exact or share == 1.0:
            assert found.times_ms[share] == true_ms
        elif truth["orders"] >= 100:
            assert found.times_ms[share] == pytest.approx(true_ms, rel=0.05)


def test_the_filters_count_when_it_is_decided_whether_a_selection_is_exact(seeded, monkeypatch):
    failed = latency.summary(seeded, latency.plan(seeded, Selection(outcome=State.FAILED))).orders
    assert 0 < failed < SEEDED / 10
    monkeypatch.setattr(latency, "EXACT_ORDERS", failed)
    assert latency.plan(seeded, Selection(outcome=State.FAILED)).is_exact
    assert not latency.plan(seeded, Selection(outcome=State.COMPLETED)).is_exact
    assert not latency.plan(seeded, Selection(fault_profile="assignment")).is_exact
    assert latency.plan(seeded, Selection(fault_profile="assignment", outcome=State.FAILED)).is_exact


def test_the_histogram_equals_plain_sql_over_the_events(seeded, seeded_url, selection, way):
    how = latency.plan(seeded, selection)
    buckets = latency.buckets(seeded, how)
    times = rows(
        seeded_url,
        "select state, completion_ms as ms from orders o where finished_at is not null"
        " and (%(run_id)s::text is null or run_id = %(run_id)s)"
        " and (%(since)s::timestamptz is null or accepted_at >= %(since)s)"
        " and (%(until)s::timestamptz is null or accepted_at < %(until)s)"
        " and (%(outcome)s::order_state is null or state = %(outcome)s)"
        " and (%(fault_profile)s::text is null or fault_profile = %(fault_profile)s)",
        selection.parameters(),
    )
    for bucket in buckets:
        low = latency.edge_below(bucket.upto_ms)
        for outcome, orders in bucket.outcomes.items():
            inside = sum(row["state"] == outcome and low < row["ms"] <= bucket.upto_ms for row in times)
            assert orders == inside
    assert sum(bucket.orders for bucket in buckets) == len(times)


def test_slices_and_cells_hold_every_order_once(seeded, selection, way):
    how = latency.plan(seeded, selection)
    found = latency.summary(seeded, how)
    slices, cells = latency.over_time(seeded, how)
    assert sum(each.orders for each in slices) == sum(cell.orders for cell in cells) == found.orders
    assert len(slices) <= latency.SLICES + 1
    if slices:
        assert max(each.times_ms[1.0] for each in slices) == found.times_ms[1.0]


def test_exact_slices_equal_plain_sql(seeded, seeded_url):
    how = latency.plan(seeded, Selection(run_id=some_run(seeded)))
    slices, _ = latency.over_time(seeded, how)
    for each in slices:
        (truth,) = rows(
            seeded_url,
            "select percentile_disc(array[0.5, 0.95, 0.99, 1.0])"
            " within group (order by completion_ms) as times"
            " from orders where run_id = %(run)s and accepted_at >= %(since)s and accepted_at < %(until)s",
            {
                "run": how.chosen.run_id,
                "since": each.at,
                "until": each.at + timedelta(seconds=how.slice_seconds),
            },
        )
        assert [each.times_ms[share] for share in SHARES] == truth["times"]


def test_the_slowest_are_the_slowest_and_their_parts_sum_to_the_whole(seeded, seeded_url, selection):
    how = latency.plan(seeded, selection)
    found = latency.slowest(seeded, how, latency.buckets(seeded, how), 12)
    truth = rows(seeded_url, "select completion_ms from orders order by 1 desc limit 12")
    if selection == Selection():
        assert [row["completion_ms"] for row in found] == [row["completion_ms"] for row in truth]
    assert [row["completion_ms"] for row in found] == sorted(
        (r["completion_ms"] for r in found), reverse=True
    )
    assert len(found) == min(12, latency.summary(seeded, how).orders)
    for row in found:
        parts = ("receive", "validate", "review", "charge", "prepare", "dispatch", "compensate", "waiting")
        assert sum(row[f"{part}_ms"] for part in parts) == row["completion_ms"]


def test_the_ecdf_is_exact_at_every_point(seeded, seeded_url):
    how = latency.plan(seeded, Selection(run_id=some_run(seeded)))
    times = [
        row["completion_ms"]
        for row in rows(
            seeded_url, "select completion_ms from orders where run_id = %(r)s", {"r": how.chosen.run_id}
        )
    ]
    for ms, share in latency.summary(seeded, how).ecdf:
        assert sum(time <= ms for time in times) / len(times) >= share
        assert sum(time < ms for time in times) / len(times) <= share


def test_the_edges_are_those_of_the_database(seeded_url):
    (found,) = rows(seeded_url, "select latency_edges() as edges")
    assert (*found["edges"], 2**31 - 1) == EDGES_MS
    assert 15_000 in EDGES_MS


@pytest.mark.parametrize(
    ("ms", "upto"), [(0, 47), (47, 47), (48, 49), (15_000, 15_000), (15_001, 15_664), (2**31 - 1, 2**31 - 1)]
)
def test_a_time_at_an_edge_is_below_it(seeded_url, ms, upto):
    (found,) = rows(seeded_url, "select latency_bucket(%(ms)s) as upto", {"ms": ms})
    assert found["upto"] == upto


def test_spans_cover_a_time_once_and_as_coarse_as_they_can():
    since, until = datetime(2026, 5, 1, 22, 58, tzinfo=UTC), datetime(2026, 5, 4, 1, 2, tzinfo=UTC)
    cut = list(latency.spans(since, until))
    assert [(span.grain_seconds, (span.until - span.since).total_seconds()) for span in cut] == [
        (60, 120), (3_600, 3_600), (86_400, 172_800), (3_600, 3_600), (60, 120),
    ]  # fmt: skip
    assert cut[0].since == since
    assert cut[-1].until == until
    assert all(one.until == other.since for one, other in pairwise(cut))
    assert list(latency.spans(since, since)) == []


def test_interpolation_stays_within_its_bucket_and_ends_at_the_longest():
    counts = [(4_089, 50), (4_270, 50)]
    assert latency.interpolated(counts, 0.5, 4_200) == 4_089
    assert latency.interpolated(counts, 0.75, 4_200) == round(4_089 + (4_200 - 4_089) / 2)
    assert latency.interpolated(counts, 1.0, 4_200) == 4_200
    assert latency.interpolated([(2**31 - 1, 1)], 0.99, 5_000_000) <= 5_000_000


# --- The rollups ------------------------------------------------------------------------------------------

ROLLUP = "select * from latency_rollup order by grain_seconds, at, run_id, outcome, fault_profile, upto_ms"


@pytest.fixture
async def driver(order_database_url):
    async with Database(order_database_url, max_size=16) as pool:
        yield OrderDriver(OrderRepository(pool, "w"), pool)


async def test_triggers_count_what_counting_anew_counts(driver, order_database_url):
    for n in range(12):
        state = (State.COMPLETED, State.CANCELLED, State.FAILED)[n % 3]
        order = new_order(run_id=f"run-{n % 2}" if n % 4 else None)
        await driver.carry_to(state, order)
    kept = rows(order_database_url, ROLLUP)
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        connection.execute("select rebuild_latency_rollup()")
    assert rows(order_database_url, ROLLUP) == kept
    assert {
        sum(row["orders"] for row in kept if row["grain_seconds"] == grain) for grain in (60, 3_600, 86_400)
    } == {12}


def finish_by_hand(url: str, order_id: str, *, and_commit: bool) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "update orders set state = 'failed', abort_reason = 'terminated',"
            " finished_at = accepted_at + interval '1 s', completion_ms = 1000, end_to_end_ms = 1000,"
            " within_limit = true, ingress_ms = 0, receive_ms = 0, validate_ms = 0, review_ms = 0,"
            " charge_ms = 0, prepare_ms = 0, dispatch_ms = 0, compensate_ms = 0, waiting_ms = 1000,"
            " attempts = 0, failed_attempts = 0, timed_out_attempts = 0 where order_id = %s",
            (order_id,),
        )
        if not and_commit:
            # As a crash before the commit would: nothing of the transaction is left.
            connection.rollback()


async def test_an_outcome_and_its_count_come_together_or_not_at_all(driver, order_database_url):
    order_id = await driver.open()
    before = rows(order_database_url, ROLLUP)
    finish_by_hand(order_database_url, order_id, and_commit=False)
    assert rows(order_database_url, ROLLUP) == before
    finish_by_hand(order_database_url, order_id, and_commit=True)
    assert (
        sum(row["orders"] for row in rows(order_database_url, ROLLUP))
        == sum(row["orders"] for row in before) + 3
    )


async def test_outcomes_at_the_same_moment_are_all_counted(driver, order_database_url):
    order_ids = [await driver.open() for _ in range(40)]
    before = sum(row["orders"] for row in rows(order_database_url, ROLLUP))
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda order_id: finish_by_hand(order_database_url, order_id, and_commit=True), order_ids
            )
        )
    assert sum(row["orders"] for row in rows(order_database_url, ROLLUP)) == before + 3 * 40


async def test_an_order_remembers_the_faults_of_its_acceptance(driver, order_database_url):
    with psycopg.connect(order_database_url, autocommit=True) as connection:
        # Acceptance is kept to the millisecond, so a change in that very millisecond could come after it.
        connection.execute(
            "insert into fault_changes (at, profile, seed, rates)"
            " values (clock_timestamp() - interval '1 second', 'lossy', 1, '{}')"
        )
        order_id = await driver.open()
        connection.execute("insert into fault_changes (profile, seed, rates) values ('none', 1, '{}')")
    await driver.abort(order_id)
    await driver.repository.finish(order_id, State.CANCELLED)
    assert (await driver.row(order_id))["fault_profile"] == "lossy"


# --- The role ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "delete from orders",
        "set default_transaction_read_only = off; update orders set run_id = 'x'",
        "set default_transaction_read_only = off; insert into provider.ledger (payment_id, order_id, kind,"
        " amount_cents) values ('a', 'b', 'charge', 1)",
        "set default_transaction_read_only = off; create table mine (x int)",
        "set role postgres",
        "select rebuild_latency_rollup()",
    ],
)
def test_the_reader_can_change_nothing(seeded_url, statement):
    url = seeded_url.replace("postgres@", "orders_reader@")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute(statement)
    assert refused.value.sqlstate in ("25006", "42501")


def test_a_reading_that_takes_too_long_is_given_up(seeded):
    with pytest.raises(StatementTimeout):
        seeded.fetch_all("select pg_sleep(3)")
    assert seeded.times_ms[-1] > STATEMENT_TIMEOUT_MS * 0.9, "what was waited for in vain counts too"
    assert seeded.has_last_failed
    assert seeded.fetch_all("select 1 as one") == [{"one": 1}]
    assert not seeded.has_last_failed


def test_times_are_told_in_utc_whatever_the_zone_of_the_server(postgres):
    with postgres.fresh_database() as url:
        name = conninfo_to_dict(url)["dbname"]
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"alter database {name} set timezone = 'Asia/Kolkata'")
            connection.execute(f"alter role orders_reader in database {name} set timezone = 'Asia/Tokyo'")
            connection.execute(
                "insert into fault_changes (at, profile, seed, rates)"
                " values ('2026-01-31 12:00:00+00', 'slow', 1, '{}')"
            )
        reader = reader_of(url)
        span = latency.faults_in_force(reader)
        reader.close()
    # A chart reads this text without its offset.
    assert span.since.isoformat() == "2026-01-31T12:00:00+00:00"


def test_a_database_that_is_away_is_one_error(tmp_path):
    reader = ReadOnlyDatabase(f"postgresql://orders_reader@/orders?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable):
        live_orders.in_flight(reader)
    assert reader.has_last_failed
    assert len(reader.times_ms) == 1
    reader.close()


def test_a_connection_that_was_cut_costs_no_reading(seeded_url):
    reader = reader_of(seeded_url)
    (before,) = reader.fetch_all("select pg_backend_pid() as pid")
    with psycopg.connect(seeded_url, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s, 5000)", (before["pid"],))
    (after,) = reader.fetch_all("select pg_backend_pid() as pid")
    assert after["pid"] != before["pid"]
    with reader._connection() as connection:
        told = connection.info.get_parameters()
    assert (told["tcp_user_timeout"], told["keepalives_count"]) == ("4000", "2"), "a silent network ends it"
    reader.close()


# --- Export -----------------------------------------------------------------------------------------------


async def test_the_csv_is_the_apis_own_to_the_byte(seeded, seeded_url):
    from db.read_models import order_details
    from db.read_models.order_details import LatencyFilter

    run_id = some_run(seeded)
    async with Database(seeded_url) as repository:
        theirs = [
            piece
            async for piece in latency_csv.csv_chunks(
                order_details.latency_rows(repository, LatencyFilter(run_id))
            )
        ]
    ours = b"".join(latency.latency_csv(seeded, Selection(run_id=run_id)))
    assert ours == b"".join(theirs)
    assert ours.count(b"\n") > 50


async def test_the_csv_escapes_what_a_spreadsheet_would_run(driver, order_database_url):
    order_id = f"-{new_order().order_id}"
    await driver.carry_to(
        State.COMPLETED, new_order(order_id=order_id, payment_id=f"p{order_id}", run_id="-1")
    )
    reader = reader_of(order_database_url)
    text = b"".join(latency.latency_csv(reader, Selection(run_id="-1"))).decode()
    reader.close()
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["order_id"], row["run_id"]) == (f"'{order_id}", "'-1")


def test_the_csv_holds_exactly_what_the_filter_shows(seeded, selection):
    text = b"".join(latency.latency_csv(seeded, selection)).decode()
    found = list(csv.DictReader(io.StringIO(text)))
    how = latency.plan(seeded, selection)
    summary = latency.summary(seeded, how)
    assert len(found) == summary.orders
    assert sum(row["within_limit"] == "false" for row in found) == summary.late


def test_an_export_is_handed_on_in_large_pieces(seeded):
    pieces = list(latency.latency_csv(seeded, Selection()))
    whole = sum(map(len, pieces))
    assert whole > 2 * PIECE_BYTES
    assert all(PIECE_BYTES <= len(piece) <= 1.1 * PIECE_BYTES for piece in pieces[:-1])
    assert len(pieces) == whole // len(pieces[0]) + 1


# --- Live, lookups, runs -----------------------------------------------------------------------------------


async def test_live_figures_equal_plain_sql(driver, order_database_url):
    for _ in range(3):
        await driver.carry_to(State.COMPLETED)
    open_ids = [await driver.carry_to(State.CHARGED) for _ in range(2)]
    overdue = await driver.open(accepted_at=datetime.now(UTC) - timedelta(seconds=60))
    reader = reader_of(order_database_url)
    (truth,) = rows(
        order_database_url,
        "select count(*) filter (where finished_at is null) as orders,"
        " count(*) filter (where finished_at is null and deadline_at < now()) as overdue,"
        " count(*) filter (where finished_at > now() - interval '300 s') as finished,"
        " count(*) filter (where finished_at > now() - interval '300 s' and not within_limit) as late,"
        " (select percentile_disc(array[0.5, 0.95, 0.99, 1.0]) within group (order by completion_ms)"
        "  from orders"
        "  where finished_at > now() - interval '300 s') as times from orders",
    )
    found, lately = live_orders.in_flight(reader), live_orders.recent_outcomes(reader, 300)
    assert (found.orders, found.overdue) == (truth["orders"], truth["overdue"])
    assert (lately.finished, lately.late) == (truth["finished"], truth["late"])
    assert [lately.p50_ms, lately.p95_ms, lately.p99_ms, lately.max_ms] == truth["times"]
    racing = [row["order_id"] for row in live_orders.race(reader, 50)]
    assert racing[0] == overdue
    assert set(open_ids) <= set(racing)
    (pace,) = rows(
        order_database_url,
        "select count(*) as n from orders where accepted_at >= date_trunc('second', now()) - interval '120 s'"
        " and accepted_at < date_trunc('second', now())",
    )
    assert sum(row["started"] for row in live_orders.pace(reader, 120)) == pytest.approx(pace["n"], abs=3)
    reader.close()


async def test_only_undecided_manual_orders_wait_for_a_person(driver, order_database_url):
    from db.domain import ReviewMode

    waiting = await driver.carry_to(State.IN_REVIEW, new_order(review=ReviewMode.MANUAL))
    approved = await driver.carry_to(State.APPROVED, new_order(review=ReviewMode.MANUAL))
    automatic = await driver.carry_to(State.IN_REVIEW)
    early = await driver.carry_to(State.VALIDATED, new_order(review=ReviewMode.MANUAL))
    await driver.repository.record_request(early, "approve_order", accepted=True, reviewer="ann")
    reader = reader_of(order_database_url)
    found = {row["order_id"]: row for row in live_orders.waiting_for_a_person(reader, 50)}
    assert live_orders.in_flight(reader).in_review == 1
    reader.close()
    assert waiting in found
    assert approved not in found
    assert early not in found
    assert automatic not in found
    left, whole = time_to_decide(found[waiting])
    assert 0 < left <= whole == pytest.approx(8.95)


def test_search_finds_what_plain_sql_finds(seeded, seeded_url):
    for wanted, condition in (
        (Search(), "true"),
        (Search(only_late=True), "not within_limit"),
        (Search(state=State.FAILED), "state = 'failed'"),
        (Search(run_id=some_run(seeded)), f"run_id = '{some_run(seeded)}'"),
        (Search(only_open=True), "finished_at is null"),
        (Search(prefix="seed_"), "false"),
    ):
        truth = rows(
            seeded_url,
            f"select order_id from orders where {condition}"
            " order by accepted_at desc, order_id desc limit 50",
        )
        assert [row["order_id"] for row in order_search.search(seeded, wanted, 50)] == [
            row["order_id"] for row in truth
        ]


@pytest.mark.parametrize("few", [order_search.FEW, 1])
def test_a_prefix_finds_the_newest_however_many_there_are(seeded, seeded_url, monkeypatch, few):
    monkeypatch.setattr(order_search, "FEW", few)
    (oldest,) = rows(seeded_url, "select order_id from orders order by accepted_at limit 1")
    prefix = oldest["order_id"].rpartition("-")[0]
    for wanted, condition in (
        (Search(prefix=prefix), "true"),
        (Search(prefix=prefix, state=State.FAILED), "state = 'failed'"),
        (Search(prefix=prefix, only_late=True), "not within_limit"),
        (Search(prefix=prefix, run_id=f"{prefix}-run1"), f"run_id = '{prefix}-run1'"),
    ):
        truth = rows(
            seeded_url,
            f"select order_id from orders where {condition} and order_id like %(prefix)s"
            " order by accepted_at desc, order_id desc limit 20",
            {"prefix": prefix + "%"},
        )
        found = order_search.search(seeded, wanted, 20)
        assert [row["order_id"] for row in found] == [row["order_id"] for row in truth]
        if len(found) == 20:
            before = (found[9]["accepted_at"], found[9]["order_id"])
            assert order_search.search(seeded, replace(wanted, before=before), 10) == found[10:]


def test_the_slowest_of_few_are_found_without_a_look_at_the_others(seeded, seeded_url):
    how = latency.plan(seeded, Selection(outcome=State.FAILED, fault_profile="none"))
    parameters = how.chosen.parameters() | {"limit": 12, "above_ms": 0}
    with psycopg.connect(seeded_url) as connection, psycopg.ClientCursor(connection) as cursor:
        connection.execute("set enable_seqscan = off")
        cursor.execute("explain (analyze, format json) " + queries.load("latency.sql")["slowest"], parameters)
        plan = json.dumps(cursor.fetchone())
    assert "orders_outcome_latency" in plan
    assert "Rows Removed by Filter" not in plan


def test_a_busy_hour_made_again_leaves_no_count_behind(postgres):
    with postgres.fresh_database() as url:
        seed(url, 300, days=1, progress=lambda _: None)
        for finished in (60, 40):
            seed_now(url, finished=finished, running=3)
        kept = rows(url, ROLLUP)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("select rebuild_latency_rollup()")
        anew = rows(url, ROLLUP)
        # The longest of what is gone may stay, where orders of another day share its bucket.
        assert all(
            row.pop("longest_ms") >= true.pop("longest_ms") for row, true in zip(kept, anew, strict=True)
        )
        assert kept == anew
        assert all(not name.startswith(("seed-lately", "seed-flying")) for name in some_ids(url, 50))


def test_pages_of_the_search_join_without_gap_or_overlap(seeded):
    first = order_search.search(seeded, Search(), 7)
    last = first[-1]
    second = order_search.search(seeded, Search(before=(last["accepted_at"], last["order_id"])), 7)
    whole = order_search.search(seeded, Search(), 14)
    assert [row["order_id"] for row in first + second] == [row["order_id"] for row in whole]


async def test_an_orders_file_has_its_books_beside_the_ledger(driver, order_database_url):
    from dashboard.view_models import order_tables

    order_id = await driver.carry_to(State.COMPLETED)
    reader = reader_of(order_database_url)
    file = order_search.order_details(reader, order_id)
    assert order_search.order_details(reader, "nobody") is None
    reader.close()
    events = await driver.events(order_id)
    assert [event["at"] for event in file.events] == [event["at"] for event in events]
    assert json.loads(json.dumps(order_tables.events(file)["event"].tolist())) == [
        event["kind"] for event in events
    ]
    beside = order_tables.database_beside_provider(file).set_index("")
    assert beside.loc["charged", "our books"] == f"{file.order['amount_cents'] / 100:,.2f}"
    # The driver works without the outside, so its ledgers know nothing.
    assert beside.loc["charged", "the outside's ledger"] == ""


def test_the_shelf_lists_runs_and_their_exact_times(seeded, seeded_url):
    shelf = stored_runs.shelf(seeded, 100)
    assert len(shelf) == 8
    times = stored_runs.times(seeded, shelf[0]["run_id"])
    truth = rows(
        seeded_url,
        "select completion_ms from orders where run_id = %(r)s order by 1",
        {"r": shelf[0]["run_id"]},
    )
    assert times.completion_ms == [row["completion_ms"] for row in truth]
    assert stored_runs.times(seeded, "nobody") is None
    assert stored_runs.under_way(seeded) == []
    assert len(stored_runs.shelf(seeded, 3)) == 3
    assert sum(latency.summary(seeded, latency.plan(seeded, Selection())).outcomes.values()) == SEEDED


# --- Seeding ----------------------------------------------------------------------------------------------


async def test_an_invented_history_passes_the_audit(seeded_url):
    from db.audit import audit_database

    async with Database(seeded_url) as repository:
        report = await audit_database(repository)
    assert (report.judged, report.open_orders, report.violations) == (SEEDED, [], [])


def test_an_invented_history_has_twelve_events_an_order_and_changes_no_fault_in_force(seeded_url, seeded):
    (found,) = rows(
        seeded_url, "select count(*) as n, (select count(*) from events_ahead) as astray from events"
    )
    assert found["n"] / SEEDED == pytest.approx(12, abs=0.5)
    assert found["astray"] == 0
    assert latency.faults_in_force(seeded).profile == "none"


def test_disturbances_by_hand_and_of_a_run_before_and_after_its_verdict(order_database_url: str) -> None:
    at = datetime(2026, 11, 24, 12, tzinfo=UTC)
    disturbances.record(order_database_url, at=at, action="kill", component="api", time_budget_seconds=0)
    disturbances.record(
        order_database_url, at=at + timedelta(seconds=5), action="stop", component="postgres", run_id="r",
        time_budget_seconds=0,
    )  # fmt: skip
    reader = reader_of(order_database_url)

    def seen() -> list[tuple[str | None, datetime, str]]:
        found = latency.disturbances(reader, at, at + timedelta(minutes=1))
        return [(each.run_id, each.at, f"{each.verb} {each.target}") for each in found]

    by_hand = (None, at, "kill api")
    assert seen() == [by_hand, ("r", at + timedelta(seconds=5), "stop postgres")]
    with psycopg.connect(order_database_url) as connection:
        connection.execute(
            "insert into runs (run_id, scenario, options, started_at, ended_at, machine, chaos)"
            " values ('r', 'mixed', '{}', %s, %s, '{}', %s)",
            (at, at + timedelta(seconds=30), '[{"at_seconds": 5.25, "verb": "stop", "target": "postgres"}]'),
        )
    # The verdict's own time of it, once.
    assert seen() == [by_hand, ("r", at + timedelta(seconds=5.25), "stop postgres")]
    reader.close()
