"""Every query of every page, each round with another order, run or span of time of the whole history."""

import random
from collections.abc import Callable, Iterator

from dashboard.bench.measures import Query, Row, at_most, timed_ms
from db.domain import State
from db.read_models import latency, live_orders, order_search, stored_runs
from db.read_models.latency import Plan, Selection
from db.read_models.order_search import Search
from db.read_only_database import ReadOnlyDatabase

ROUNDS = 40
LIMIT_MS = 100.0


def rows(reader: ReadOnlyDatabase, ids: list[str], note: Callable[[str], None]) -> Iterator[Row]:
    """`ids` are orders of all days."""
    for name, query in (
        _of_now(reader) | _of_orders(reader, ids) | _of_runs(reader) | _of_latency(reader)
    ).items():
        note(name)
        query()
        times = [timed_ms(query) for _ in range(ROUNDS)]
        yield at_most(f"query: {name}", times, LIMIT_MS, "ms", share=0.95)


def _of_now(reader: ReadOnlyDatabase) -> dict[str, Query]:
    return {
        "now: in flight": lambda: live_orders.in_flight(reader),
        "now: race": lambda: live_orders.race(reader, 12),
        "now: pace": lambda: live_orders.pace(reader, 120),
        "now: finished in the last hour": lambda: live_orders.recent_outcomes(reader, 3_600),
        "now: last outcome": lambda: live_orders.last_finished_at(reader),
        "now: faults": lambda: latency.faults_in_force(reader),
        "review desk": lambda: live_orders.waiting_for_a_person(reader, 25),
    }


def _of_orders(reader: ReadOnlyDatabase, ids: list[str]) -> dict[str, Query]:
    chance = random.Random(1)
    files = [
        file.order for order_id in ids[:ROUNDS] if (file := order_search.order_details(reader, order_id))
    ]
    places = [(order["accepted_at"], order["order_id"]) for order in files]
    days = sorted({order_id.rpartition("-")[0] for order_id in ids})
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    searches: dict[str, Callable[[], Search]] = {
        "newest": lambda: Search(),
        "older": lambda: Search(before=chance.choice(places)),
        "an id": lambda: Search(prefix=chance.choice(ids)),
        "ids of ten": lambda: Search(prefix=chance.choice(ids)[:-1]),
        "any of a day": lambda: Search(prefix=chance.choice(days)),
        "any of the oldest day": lambda: Search(prefix=days[-1]),
        "late": lambda: Search(only_late=True),
        "failed": lambda: Search(state=State.FAILED),
        "failed, older": lambda: Search(state=State.FAILED, before=chance.choice(places)),
        "failed of a day": lambda: Search(state=State.FAILED, prefix=chance.choice(days)),
        "running": lambda: Search(only_open=True),
        "of a run": lambda: Search(run_id=chance.choice(runs)),
        "late ones of a run": lambda: Search(run_id=chance.choice(runs), only_late=True),
        "failed ones of a run, older": lambda: Search(
            run_id=chance.choice(runs), state=State.FAILED, before=chance.choice(places)
        ),
    }
    found: dict[str, Query] = {
        f"orders: {name}": lambda some=some: order_search.search(reader, some(), 50)  # type: ignore[misc]
        for name, some in searches.items()
    }
    return found | {"order page": lambda: order_search.order_details(reader, chance.choice(ids))}


def _of_runs(reader: ReadOnlyDatabase) -> dict[str, Query]:
    chance = random.Random(2)
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    return {
        "load tests: shelf": lambda: stored_runs.shelf(reader, 100),
        "load tests: under way": lambda: stored_runs.under_way(reader),
        "load tests: a run": lambda: stored_runs.verdict(reader, chance.choice(runs)),
        "load tests: times of a run": lambda: stored_runs.times(reader, chance.choice(runs)),
    }


def _of_latency(reader: ReadOnlyDatabase) -> dict[str, Query]:
    chance = random.Random(3)
    runs = [str(row["run_id"]) for row in latency.run_names(reader)]
    everything = latency.plan(reader, Selection())
    assert everything is not None, "the seeding makes orders"
    length = everything.until - everything.since

    def some_time(share: float, **others: object) -> Selection:
        since = everything.since + length * (1 - share) * chance.random()
        return Selection(since=since, until=since + length * share, **others)  # type: ignore[arg-type]

    selections: dict[str, Callable[[], Selection]] = {
        "everything": lambda: Selection(),
        "a run": lambda: Selection(run_id=chance.choice(runs)),
        "failed ones of a run": lambda: Selection(run_id=chance.choice(runs), outcome=State.FAILED),
        "an hour": lambda: some_time(1 / 336),
        "a week": lambda: some_time(0.5),
        "failed": lambda: Selection(outcome=State.FAILED),
        "without faults": lambda: Selection(fault_profile="none"),
        "failed under faults": lambda: Selection(outcome=State.FAILED, fault_profile="assignment"),
        "cancelled without faults in a week": lambda: some_time(
            0.5, outcome=State.CANCELLED, fault_profile="none"
        ),
    }
    found: dict[str, Query] = {
        "latency: faults and disturbances": lambda: (
            latency.fault_spans(reader, everything.since, everything.until),
            latency.disturbances(reader, everything.since, everything.until),
        ),
        "latency: names": lambda: (latency.run_names(reader), latency.fault_profiles(reader)),
    }
    for name, some in selections.items():
        found |= _every_chart(reader, name, some)
    return found


def _every_chart(reader: ReadOnlyDatabase, name: str, some: Callable[[], Selection]) -> dict[str, Query]:
    chance = random.Random(4)
    plans = [each for _ in range(ROUNDS + 1) if (each := latency.plan(reader, some())) is not None]
    buckets = {how: latency.buckets(reader, how) for how in plans}

    def of(chart: Callable[[ReadOnlyDatabase, Plan], object]) -> Query:
        return lambda: chart(reader, chance.choice(plans))

    return {
        f"latency, {name}: size": lambda: latency.plan(reader, some()),
        f"latency, {name}: summary": of(latency.summary),
        f"latency, {name}: histogram": of(latency.buckets),
        f"latency, {name}: over time": of(latency.over_time),
        f"latency, {name}: slowest": of(lambda _, how: latency.slowest(reader, how, buckets[how], 12)),
    }
