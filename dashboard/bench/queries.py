"""Every query of every page, each round with another order, run or span of time of the whole history."""

import random
from collections.abc import Callable, Iterator

from dashboard.bench.measures import Query, Row, at_most, timed_ms
from db import charts, live, lookups, run_shelf
from db.charts import Plan, Selection
from db.lookups import Search
from db.reader import Reader
from orchestrator.vocabulary import State

ROUNDS = 40
LIMIT_MS = 100.0


def rows(reader: Reader, ids: list[str], note: Callable[[str], None]) -> Iterator[Row]:
    """`ids` are orders of all days."""
    for name, query in (
        _of_now(reader) | _of_orders(reader, ids) | _of_runs(reader) | _of_latency(reader)
    ).items():
        note(name)
        query()
        times = [timed_ms(query) for _ in range(ROUNDS)]
        yield at_most(f"query: {name}", times, LIMIT_MS, "ms", share=0.95)


def _of_now(reader: Reader) -> dict[str, Query]:
    return {
        "now: in flight": lambda: live.in_flight(reader),
        "now: race": lambda: live.race(reader, 12),
        "now: pace": lambda: live.pace(reader, 120),
        "now: finished in the last hour": lambda: live.finished_lately(reader, 3_600),
        "now: last outcome": lambda: live.last_finished_at(reader),
        "now: faults": lambda: charts.faults_in_force(reader),
        "review desk": lambda: live.waiting_for_a_person(reader, 25),
    }


def _of_orders(reader: Reader, ids: list[str]) -> dict[str, Query]:
    chance = random.Random(1)
    files = [file.order for order_id in ids[:ROUNDS] if (file := lookups.order_file(reader, order_id))]
    places = [(order["accepted_at"], order["order_id"]) for order in files]
    days = sorted({order_id.rpartition("-")[0] for order_id in ids})
    runs = [str(row["run_id"]) for row in charts.run_names(reader)]
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
        f"orders: {name}": lambda some=some: lookups.search(reader, some(), 50)  # type: ignore[misc]
        for name, some in searches.items()
    }
    return found | {"order page": lambda: lookups.order_file(reader, chance.choice(ids))}


def _of_runs(reader: Reader) -> dict[str, Query]:
    chance = random.Random(2)
    runs = [str(row["run_id"]) for row in charts.run_names(reader)]
    return {
        "load tests: shelf": lambda: run_shelf.shelf(reader, 100),
        "load tests: under way": lambda: run_shelf.under_way(reader),
        "load tests: a run": lambda: run_shelf.verdict(reader, chance.choice(runs)),
        "load tests: times of a run": lambda: run_shelf.times(reader, chance.choice(runs)),
    }


def _of_latency(reader: Reader) -> dict[str, Query]:
    chance = random.Random(3)
    runs = [str(row["run_id"]) for row in charts.run_names(reader)]
    everything = charts.plan(reader, Selection())
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
            charts.fault_spans(reader, everything.since, everything.until),
            charts.disturbances(reader, everything.since, everything.until),
        ),
        "latency: names": lambda: (charts.run_names(reader), charts.fault_profiles(reader)),
    }
    for name, some in selections.items():
        found |= _every_chart(reader, name, some)
    return found


def _every_chart(reader: Reader, name: str, some: Callable[[], Selection]) -> dict[str, Query]:
    chance = random.Random(4)
    plans = [each for _ in range(ROUNDS + 1) if (each := charts.plan(reader, some())) is not None]
    buckets = {how: charts.buckets(reader, how) for how in plans}

    def of(chart: Callable[[Reader, Plan], object]) -> Query:
        return lambda: chart(reader, chance.choice(plans))

    return {
        f"latency, {name}: size": lambda: charts.plan(reader, some()),
        f"latency, {name}: summary": of(charts.summary),
        f"latency, {name}: histogram": of(charts.buckets),
        f"latency, {name}: over time": of(charts.over_time),
        f"latency, {name}: slowest": of(lambda _, how: charts.slowest(reader, how, buckets[how], 12)),
    }
