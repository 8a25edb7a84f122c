"""Every query of every page, with a random order, run or time range of the history in each round."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from db.domain import State
from db.read_models import (
    latency,
    live_orders,
    order_search,
    playback,
    run_timeline,
    stage,
    step_times,
    stored_runs,
    time_groups,
)
from db.read_models.latency import Plan, Selection
from db.read_models.order_search import Search
from db.read_only_database import ReadOnlyDatabase
from loadtest.bench.harness import Measurement
from tests.bench.measures import Query, at_most, timed_ms

ROUNDS = 40
LIMIT_MS = 60.0


def measure(
    reader: ReadOnlyDatabase, order_ids: list[str], progress: Callable[[str], None]
) -> Iterator[Measurement]:
    """Measure each query ROUNDS times; `order_ids` are orders of all days."""
    for name, query in (
        _overview(reader) | _orders(reader, order_ids) | _runs(reader) | _latency(reader)
    ).items():
        progress(name)
        query()
        times = [timed_ms(query) for _ in range(ROUNDS)]
        yield at_most(f"query: {name}", times, LIMIT_MS, "ms", share=0.95)


def _overview(reader: ReadOnlyDatabase) -> dict[str, Query]:
    return {
        "overview: in flight": lambda: live_orders.in_flight(reader),
        "overview: closest to the deadline": lambda: live_orders.orders_by_deadline(reader, 12),
        "overview: throughput": lambda: live_orders.throughput(reader, 120),
        "overview: finished in the last hour": lambda: live_orders.recent_outcomes(reader, 3_600),
        "overview: outcomes over the last hour": lambda: live_orders.outcomes_over_time(reader, 3_600, 10),
        "overview: in each state": lambda: live_orders.open_by_state(reader),
        "overview: step times": lambda: step_times.newest(reader),
        "overview: last outcome": lambda: live_orders.last_finished_at(reader),
        "overview: faults": lambda: latency.active_faults(reader),
        "stage: counters of the last hour": lambda: stage.counters(
            reader, datetime.now(UTC) - timedelta(hours=1)
        ),
        "stage: recent orders": lambda: stage.recent_orders(reader, 60),
        "reviews": lambda: live_orders.orders_awaiting_review(reader, 25),
    }


def _orders(reader: ReadOnlyDatabase, order_ids: list[str]) -> dict[str, Query]:
    random = Random(1)
    orders = [
        details.order
        for order_id in order_ids[:ROUNDS]
        if (details := order_search.order_details(reader, order_id))
    ]
    positions = [(order["accepted_at"], order["order_id"]) for order in orders]
    days = sorted({order_id.rpartition("-")[0] for order_id in order_ids})
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    searches: dict[str, Callable[[], Search]] = {
        "newest": lambda: Search(),
        "older": lambda: Search(before=random.choice(positions)),
        "an id": lambda: Search(prefix=random.choice(order_ids)),
        "id prefix of ten orders": lambda: Search(prefix=random.choice(order_ids)[:-1]),
        "id prefix of a day": lambda: Search(prefix=random.choice(days)),
        "id prefix of the oldest day": lambda: Search(prefix=days[-1]),
        "late": lambda: Search(only_late=True),
        "failed": lambda: Search(state=State.FAILED),
        "failed, older": lambda: Search(state=State.FAILED, before=random.choice(positions)),
        "failed, of a day": lambda: Search(state=State.FAILED, prefix=random.choice(days)),
        "running": lambda: Search(only_open=True),
        "charged": lambda: Search(state=State.CHARGED, only_open=True),
        "of a run": lambda: Search(run_id=random.choice(runs)),
        "late, of a run": lambda: Search(run_id=random.choice(runs), only_late=True),
        "failed, of a run, older": lambda: Search(
            run_id=random.choice(runs), state=State.FAILED, before=random.choice(positions)
        ),
    }
    found: dict[str, Query] = {
        f"orders: {name}": lambda search=search: order_search.search(reader, search(), 50)  # type: ignore[misc]
        for name, search in searches.items()
    }
    return found | {
        "orders: preview of a cancellation": lambda: order_search.states(
            reader, random.sample(order_ids, 50)
        ),
        "order page": lambda: order_search.order_details(reader, random.choice(order_ids)),
        "order page: median of its run": lambda: order_search.median_order(reader, random.choice(runs)),
    }


def _runs(reader: ReadOnlyDatabase) -> dict[str, Query]:
    random = Random(2)
    names = latency.run_names(reader)
    runs = [str(row["run_id"]) for row in names]
    seconds = [(str(row["run_id"]), row["started_at"] + timedelta(seconds=300)) for row in names]
    return {
        "load tests: stored runs": lambda: stored_runs.newest_runs(reader, 100),
        "load tests: running": lambda: stored_runs.running_runs(reader),
        "load tests: a run": lambda: stored_runs.verdict(reader, random.choice(runs)),
        "load tests: times of a run": lambda: stored_runs.times(reader, random.choice(runs)),
        "load tests: a run over time": lambda: run_timeline.run_timeline(reader, random.choice(runs)),
        "load tests: playback": lambda: _playback(reader, random.choice(runs)),
        "load tests: why late": lambda: _why_late(reader, random.choice(runs)),
        "load tests: orders of a second": lambda: run_timeline.orders_of_second(
            reader, *random.choice(seconds)
        ),
    }


def _playback(reader: ReadOnlyDatabase, run_id: str) -> object:
    row = stored_runs.verdict(reader, run_id)
    assert row is not None, "the run exists"
    return playback.orders(reader, run_id, row["started_at"])


def _why_late(reader: ReadOnlyDatabase, run_id: str) -> object:
    """Read the groups of a run with three disturbances, whose windows cover a tenth of it."""
    row = stored_runs.verdict(reader, run_id)
    assert row is not None, "the run exists"
    starts = [row["started_at"] + timedelta(seconds=seconds) for seconds in (100, 250, 400)]
    windows = [time_groups.Window(n, at, at + timedelta(seconds=20)) for n, at in enumerate(starts)]
    return time_groups.time_groups(reader, run_id, windows)


def _latency(reader: ReadOnlyDatabase) -> dict[str, Query]:
    random = Random(3)
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    whole = latency.plan(reader, Selection())
    assert whole is not None, "the database is seeded"
    length = whole.until - whole.since

    def random_range(share: float, **others: object) -> Selection:
        since = whole.since + length * (1 - share) * random.random()
        return Selection(since=since, until=since + length * share, **others)  # type: ignore[arg-type]

    selections: dict[str, Callable[[], Selection]] = {
        "everything": lambda: Selection(),
        "a run": lambda: Selection(run_id=random.choice(runs)),
        "failed, of a run": lambda: Selection(run_id=random.choice(runs), outcome=State.FAILED),
        "an hour": lambda: random_range(1 / 336),
        "a week": lambda: random_range(0.5),
        "failed": lambda: Selection(outcome=State.FAILED),
        "without faults": lambda: Selection(fault_profile="none"),
        "failed, under faults": lambda: Selection(outcome=State.FAILED, fault_profile="assignment"),
        "cancelled, without faults, a week": lambda: random_range(
            0.5, outcome=State.CANCELLED, fault_profile="none"
        ),
    }
    found: dict[str, Query] = {
        "latency: faults and disturbances": lambda: (
            latency.fault_spans(reader, whole.since, whole.until),
            latency.disturbances(reader, whole.since, whole.until),
        ),
        "latency: filters": lambda: (latency.run_names(reader), latency.fault_profiles(reader)),
    }
    for name, selection in selections.items():
        found |= _charts(reader, name, selection)
    return found


def _charts(reader: ReadOnlyDatabase, name: str, selection: Callable[[], Selection]) -> dict[str, Query]:
    random = Random(4)
    plans = [each for _ in range(ROUNDS + 1) if (each := latency.plan(reader, selection())) is not None]
    buckets = {plan: latency.buckets(reader, plan) for plan in plans}

    def query(chart: Callable[[ReadOnlyDatabase, Plan], object]) -> Query:
        return lambda: chart(reader, random.choice(plans))

    return {
        f"latency, {name}: size": lambda: latency.plan(reader, selection()),
        f"latency, {name}: summary": query(latency.summary),
        f"latency, {name}: histogram": query(latency.buckets),
        f"latency, {name}: over time": query(latency.over_time),
        f"latency, {name}: slowest": query(lambda _, plan: latency.slowest(reader, plan, buckets[plan], 12)),
    }
