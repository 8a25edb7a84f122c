"""Completion times for the charts, for any selection of finished orders.

A run of any size, and any other selection of up to EXACT_ORDERS orders, is read from the orders themselves
and exact to the millisecond. A larger one is read from the rollups: counts, late orders and the longest time
stay exact, percentiles are interpolated within a bucket 4.4 % wide. Raises DatabaseUnavailable when PostgreSQL does not
answer.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import ceil

from db import queries
from db.database import Row
from db.domain import TERMINAL_STATES, State
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("latency.sql")

EXACT_ORDERS = 50_000
"""Up to so many orders of no single run are read one by one. A run has an end, a history has none."""

SHARES = (0.5, 0.9, 0.95, 0.99, 1.0)
ECDF_POINTS = 400
SLICES = 120
"""At most so many slices of time in a chart."""

SLICE_SECONDS = (1, 2, 5, 10, 30, 60, 300, 900, 3_600, 10_800, 43_200, 86_400, 604_800)
ROLLUP_SLICE_SECONDS = (60, 300, 900, 3_600, 10_800, 86_400, 604_800)
"""Without half days: two months of them would be read hour by hour."""

GRAINS = (86_400, 3_600, 60)

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Selection:
    """Finished orders: of a run, accepted from `since` to before `until`, with an outcome, under a fault
    profile. None: any. Times are widened to whole minutes, which is what the rollups know."""

    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: State | None = None
    fault_profile: str | None = None

    def __post_init__(self) -> None:
        if self.since is not None:
            object.__setattr__(self, "since", floor(self.since, 60))
        if self.until is not None:
            object.__setattr__(self, "until", ceiling(self.until, 60))

    def parameters(self) -> Row:
        return {
            "run_id": self.run_id,
            "since": self.since,
            "until": self.until,
            "outcome": self.outcome.value if self.outcome else None,
            "fault_profile": self.fault_profile,
        }


@dataclass(frozen=True)
class Span:
    """Whole units of one grain."""

    grain_seconds: int
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Plan:
    """How a selection is read: with its two ends known, and `is_exact` or from the rollups."""

    chosen: Selection
    since: datetime
    until: datetime
    is_exact: bool

    @property
    def slice_seconds(self) -> int:
        """The width of one slice of time, so that there are at most SLICES of them."""
        length = (self.until - self.since).total_seconds()
        allowed = SLICE_SECONDS if self.is_exact else ROLLUP_SLICE_SECONDS
        return next((each for each in allowed if each * SLICES >= length), SLICE_SECONDS[-1])


@dataclass(frozen=True)
class Bucket:
    """Orders that took more than the edge below and at most `upto_ms`."""

    upto_ms: int
    outcomes: dict[State, int]

    @property
    def orders(self) -> int:
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Summary:
    """`times_ms` has a time for each of SHARES; `ecdf` pairs of (ms, share that took at most that)."""

    orders: int
    late: int
    outcomes: dict[State, int]
    times_ms: dict[float, int] = field(default_factory=dict)
    ecdf: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Slice:
    """The orders accepted in one slice of time; `times_ms` for 0.5, 0.95, 0.99 and 1.0."""

    at: datetime
    orders: int
    times_ms: dict[float, int]


@dataclass(frozen=True)
class Cell:
    at: datetime
    upto_ms: int
    orders: int


@dataclass(frozen=True)
class FaultSpan:
    """A fault profile and when it was in force; `until` is None while it is."""

    profile: str
    seed: int
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class Disturbance:
    """Something that was done to a part of the stack; `run_id` None: by hand, in no load test."""

    run_id: str | None
    at: datetime
    verb: str
    target: str


def plan(reader: ReadOnlyDatabase, chosen: Selection) -> Plan | None:
    """Decides how to read a selection, or None when there is no finished order at all."""
    since, until = chosen.since, chosen.until
    if chosen.run_id is not None:
        row = reader.fetch_one(_SQL["run_span"], {"run_id": chosen.run_id})
        first, last = (row["since"], row["until"]) if row else (None, None)
    else:
        row = reader.fetch_one(_SQL["known_span"])
        first, last = (row["first_minute"], row["last_order"]) if row else (None, None)
    if first is None or last is None:
        return None
    earliest = floor(first, 1 if chosen.run_id else 60)
    latest = ceiling(last + timedelta(seconds=1), 1 if chosen.run_id else 60)
    since = max(since, earliest) if since else earliest
    until = max(min(until, latest) if until else latest, since + timedelta(seconds=1))
    if chosen.run_id is not None or _size_at_most(reader, chosen, since, until) <= EXACT_ORDERS:
        return Plan(chosen, since, until, is_exact=True)
    return Plan(chosen, floor(since, 60), ceiling(until, 60), is_exact=False)


def _size_at_most(reader: ReadOnlyDatabase, chosen: Selection, since: datetime, until: datetime) -> int:
    # The outer hours are enough to see whether it is many.
    outer = list(spans(floor(since, 3_600), ceiling(until, 3_600)))
    size = reader.fetch_one(_SQL["size_of"], chosen.parameters() | _span_parameters(outer))
    return int(size["orders"]) if size else 0


def summary(reader: ReadOnlyDatabase, how: Plan) -> Summary:
    """Counts, percentiles and the distribution of a whole selection."""
    return _exact_summary(reader, how) if how.is_exact else summary_of_buckets(_rollup_rows(reader, how))


def buckets(reader: ReadOnlyDatabase, how: Plan) -> list[Bucket]:
    """The histogram, with the rollups' edges in either case; empty buckets are left out."""
    rows = (
        reader.fetch_all(_SQL["exact_buckets"], how.chosen.parameters())
        if how.is_exact
        else _rollup_rows(reader, how)
    )
    found: dict[int, dict[State, int]] = {}
    for row in rows:
        found.setdefault(row["upto_ms"], {})[State(row["outcome"])] = row["orders"]
    return [Bucket(upto_ms, outcomes) for upto_ms, outcomes in found.items()]


def over_time(reader: ReadOnlyDatabase, how: Plan) -> tuple[list[Slice], list[Cell]]:
    """Percentiles for each slice of time, and the heatmap's cells."""
    parameters = how.chosen.parameters() | {"slice_seconds": how.slice_seconds}
    if how.is_exact:
        cells = [Cell(**row) for row in reader.fetch_all(_SQL["exact_cells"], parameters)]
        slices = [
            Slice(row["at"], row["orders"], dict(zip((0.5, 0.95, 0.99, 1.0), row["times_ms"], strict=True)))
            for row in reader.fetch_all(_SQL["exact_times"], parameters)
        ]
        return slices, cells
    coarsest = next(grain for grain in GRAINS if grain <= how.slice_seconds)
    wanted = _span_parameters(list(spans(how.since, how.until, coarsest)))
    rows = reader.fetch_all(_SQL["rollup_cells"], parameters | wanted)
    by_slice: dict[datetime, list[Row]] = {}
    for row in rows:
        by_slice.setdefault(row["at"], []).append(row)
    slices = []
    for at, own in by_slice.items():
        counts = [(row["upto_ms"], row["orders"]) for row in own]
        longest = max(row["longest_ms"] for row in own)
        times = {share: interpolated(counts, share, longest) for share in (0.5, 0.95, 0.99, 1.0)}
        slices.append(Slice(at, sum(orders for _, orders in counts), times))
    return slices, [Cell(row["at"], row["upto_ms"], row["orders"]) for row in rows]


def slowest(reader: ReadOnlyDatabase, how: Plan, known: list[Bucket], limit: int) -> list[Row]:
    """The slowest orders of a selection with the parts of their time, the slowest first."""
    above, seen = 0, 0
    for bucket in reversed(known):
        if seen >= limit:
            above = bucket.upto_ms
            break
        seen += bucket.orders
    parameters = how.chosen.parameters() | {"limit": limit, "above_ms": above}
    return reader.fetch_all(_SQL["slowest"], parameters)


def fault_spans(
    reader: ReadOnlyDatabase, since: datetime | None, until: datetime | None, limit: int = 200
) -> list[FaultSpan]:
    """What was in force between two times, the newest `limit` spans, oldest first."""
    rows = reader.fetch_all(_SQL["fault_spans"], {"since": since, "until": until, "limit": limit})
    return [FaultSpan(**row) for row in reversed(rows)]


def disturbances(
    reader: ReadOnlyDatabase, since: datetime, until: datetime, limit: int = 200
) -> list[Disturbance]:
    """What was done to the stack between two times, the first `limit` of it, oldest first."""
    rows = reader.fetch_all(_SQL["disturbances"], {"since": since, "until": until, "limit": limit})
    return [Disturbance(**row) for row in rows]


def active_faults(reader: ReadOnlyDatabase) -> FaultSpan | None:
    """None when no profile was ever set."""
    row = reader.fetch_one(_SQL["active_faults"])
    return FaultSpan(**row) if row else None


def fault_profiles(reader: ReadOnlyDatabase) -> list[str]:
    """The names of all profiles that were ever in force, and `none`."""
    known = {row["profile"] for row in reader.fetch_all(_SQL["fault_profiles"])}
    return sorted(known | {"none"})


def run_names(reader: ReadOnlyDatabase, limit: int = 200) -> list[Row]:
    """run_id, scenario, started_at; newest first."""
    return reader.fetch_all(_SQL["run_names"], {"limit": limit})


def _exact_summary(reader: ReadOnlyDatabase, how: Plan) -> Summary:
    row = reader.fetch_one(_SQL["exact_summary"], how.chosen.parameters())
    assert row is not None, "an aggregate gives a row"
    upto = list(accumulate(row["orders_of"]))
    total = upto[-1] if upto else 0

    def time_of(share: float) -> int:
        # The time of an order that there was, as percentile_disc has it.
        return int(row["times_ms"][bisect_left(upto, ceil(share * total))])

    return Summary(
        orders=total,
        late=row["late"],
        outcomes={state: row[state.value] for state in TERMINAL_STATES},
        times_ms={share: time_of(share) for share in SHARES} if total else {},
        ecdf=[(time_of(n / ECDF_POINTS), n / ECDF_POINTS) for n in range(1, ECDF_POINTS + 1)]
        if total
        else [],
    )


def _rollup_rows(reader: ReadOnlyDatabase, how: Plan) -> list[Row]:
    wanted = _span_parameters(list(spans(how.since, how.until)))
    return reader.fetch_all(_SQL["rollup_buckets"], how.chosen.parameters() | wanted)


def summary_of_buckets(rows: list[Row]) -> Summary:
    """The summary that buckets allow: rows of upto_ms (rising), outcome, orders, late, longest_ms."""
    counts: dict[int, int] = {}
    outcomes = dict.fromkeys(TERMINAL_STATES, 0)
    for row in rows:
        counts[row["upto_ms"]] = counts.get(row["upto_ms"], 0) + row["orders"]
        outcomes[State(row["outcome"])] += row["orders"]
    total = sum(counts.values())
    if total == 0:
        return Summary(0, 0, outcomes)
    longest = max(row["longest_ms"] for row in rows)
    ecdf, below = [], 0
    for upto_ms, orders in counts.items():
        below += orders
        ecdf.append((min(upto_ms, longest), below / total))
    return Summary(
        orders=total,
        late=sum(row["late"] for row in rows),
        outcomes=outcomes,
        times_ms={share: interpolated(list(counts.items()), share, longest) for share in SHARES},
        ecdf=ecdf,
    )


def interpolated(counts: list[tuple[int, int]], share: float, longest_ms: int) -> int:
    """The percentile of buckets (upto_ms rising, orders), taken to be even within one; the last is exact."""
    wanted = share * sum(orders for _, orders in counts)
    below = 0
    for upto_ms, orders in counts:
        if below + orders >= wanted:
            upper = min(upto_ms, longest_ms)
            lower = min(edge_below(upto_ms), upper)
            return round(lower + (upper - lower) * (wanted - below) / orders)
        below += orders
    return longest_ms


def edge_below(upto_ms: int) -> int:
    """The edge before a bucket's own: edges are 15,000 ms times powers of the sixteenth root of 2."""
    return EDGES_MS[EDGES_MS.index(upto_ms) - 1] if upto_ms in EDGES_MS[1:] else 0


EDGES_MS = (*sorted({round(15_000 * 2 ** (n / 16)) for n in range(-133, 129)}), 2**31 - 1)
"""As `latency_edges()` in the database has them, and the end of the last bucket."""


def spans(since: datetime, until: datetime, coarsest: int = GRAINS[0]) -> Iterator[Span]:
    """Cuts a time between whole minutes into whole days, hours and minutes, as coarse as they come."""
    grains = [grain for grain in GRAINS if grain <= coarsest]
    yield from _cut(since, until, grains)


def _cut(since: datetime, until: datetime, grains: list[int]) -> Iterator[Span]:
    if since >= until or not grains:
        return
    grain = grains[0]
    first, last = ceiling(since, grain), floor(until, grain)
    if first >= last:
        yield from _cut(since, until, grains[1:])
        return
    yield from _cut(since, first, grains[1:])
    yield Span(grain, first, last)
    yield from _cut(last, until, grains[1:])


def _span_parameters(cut: list[Span]) -> Row:
    return {
        "grains": [span.grain_seconds for span in cut],
        "starts": [span.since for span in cut],
        "ends": [span.until for span in cut],
    }


def floor(moment: datetime, seconds: int) -> datetime:
    """The start of the whole unit that a moment lies in."""
    return moment - (moment - _EPOCH) % timedelta(seconds=seconds)


def ceiling(moment: datetime, seconds: int) -> datetime:
    """The next start of a whole unit, or the moment itself."""
    return moment + (_EPOCH - moment) % timedelta(seconds=seconds)
