"""Completion times for the charts, for any selection of finished orders.

A run of any size, and any other selection of up to EXACT_ORDERS orders, is read from the orders and exact to
the millisecond. A larger one is read from the rollup: counts, late orders and the longest time are exact,
percentiles are interpolated within buckets 4.4 % wide. Raises DatabaseError.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import NamedTuple

from db import queries
from db.database import Row
from db.domain import TERMINAL_STATES, State
from db.read_models.latency_buckets import interpolated_percentile
from db.read_models.percentiles import nearest_rank
from db.read_models.time_spans import GRAINS, ceiling, floor, span_parameters, spans
from db.read_only_database import ReadOnlyDatabase

_SQL = queries.load("latency.sql")

EXACT_ORDERS = 50_000
"""Maximum size of a selection that is read from the orders, unless it is a run."""

SHARES = (0.5, 0.9, 0.95, 0.99, 1.0)
SLICE_SHARES = (0.5, 0.95, 0.99, 1.0)
ECDF_POINTS = 400
"""Points of a distribution with equal distances; TAIL_POINTS_PER_NINE more for each nine of its tail."""

TAIL_POINTS_PER_NINE = 40
MAX_SLICES = 120
"""Maximum number of time slices in a chart."""

SLICE_SECONDS = (1, 2, 5, 10, 30, 60, 300, 900, 3_600, 10_800, 43_200, 86_400, 604_800)
ROLLUP_SLICE_SECONDS = (60, 300, 900, 3_600, 10_800, 86_400, 604_800)
"""No half days: a chart of two months in half days would read the hourly rows of the rollup."""


@dataclass(frozen=True)
class LatencyFilter:
    """Selects orders by run, acceptance time (since <= time < until), outcome and fault profile. None selects
    all."""

    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: State | None = None
    fault_profile: str | None = None

    def parameters(self) -> Row:
        return dict(vars(self))


@dataclass(frozen=True)
class Selection(LatencyFilter):
    """A filter whose times are extended to whole minutes, the finest grain of the rollup."""

    def __post_init__(self) -> None:
        if self.since is not None:
            object.__setattr__(self, "since", floor(self.since, 60))
        if self.until is not None:
            object.__setattr__(self, "until", ceiling(self.until, 60))


@dataclass(frozen=True)
class Plan:
    """How a selection is read: its time range, and whether from the orders (`is_exact`) or from the
    rollup."""

    selection: Selection
    since: datetime
    until: datetime
    is_exact: bool

    @property
    def slice_seconds(self) -> int:
        """The width of a time slice, so that there are at most MAX_SLICES of them."""
        length = (self.until - self.since).total_seconds()
        allowed = SLICE_SECONDS if self.is_exact else ROLLUP_SLICE_SECONDS
        return next((each for each in allowed if each * MAX_SLICES >= length), SLICE_SECONDS[-1])


@dataclass(frozen=True)
class Bucket:
    """Orders whose completion time is above the lower edge and at most `upto_ms`."""

    upto_ms: int
    outcomes: dict[State, int]

    @property
    def orders(self) -> int:
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Summary:
    """The finished orders of a selection.

    `times_ms` has a percentile for each of SHARES; `ecdf` has pairs (ms, share of orders up to that time).
    """

    orders: int
    late: int
    outcomes: dict[State, int]
    times_ms: dict[float, int] = field(default_factory=dict)
    ecdf: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Slo:
    """The limit of an order, in seconds, and the share of orders that must be within it."""

    limit_seconds: float
    target: float


@dataclass(frozen=True)
class Slice:
    """The orders accepted in one time slice; `times_ms` has a percentile for each of SLICE_SHARES."""

    at: datetime
    orders: int
    times_ms: dict[float, int]


class Cell(NamedTuple):
    """The orders accepted in one time slice, with a completion time in one bucket of the histogram."""

    at: datetime
    upto_ms: int
    orders: int


@dataclass(frozen=True)
class FaultSpan:
    """A fault profile and the time in which it was active; `until` is None while it is."""

    profile: str
    seed: int
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class Disturbance:
    """A kill, pause, stop or restart of a component. `run_id` is None for one outside a load test."""

    run_id: str | None
    at: datetime
    verb: str
    target: str


def plan(reader: ReadOnlyDatabase, selection: Selection) -> Plan | None:
    """Return how to read a selection, or None when it has no finished order."""
    since, until = selection.since, selection.until
    if selection.run_id is not None:
        row = reader.fetch_one(_SQL["run_span"], {"run_id": selection.run_id})
        first, last = (row["since"], row["until"]) if row else (None, None)
    else:
        row = reader.fetch_one(_SQL["all_orders_span"])
        first, last = (row["first_minute"], row["last_order"]) if row else (None, None)
    if first is None or last is None:
        return None
    earliest = floor(first, 1 if selection.run_id else 60)
    latest = ceiling(last + timedelta(seconds=1), 1 if selection.run_id else 60)
    since = max(since, earliest) if since else earliest
    until = min(until, latest) if until else latest
    if since >= until:
        return None
    if selection.run_id is not None or _max_size(reader, selection, since, until) <= EXACT_ORDERS:
        return Plan(selection, since, until, is_exact=True)
    return Plan(selection, floor(since, 60), ceiling(until, 60), is_exact=False)


def overdue_orders(reader: ReadOnlyDatabase, selection: Selection) -> int:
    """Return the number of open orders that are past their limit. They count as late."""
    row = reader.fetch_one(_SQL["overdue"], selection.parameters())
    assert row is not None, "an aggregate returns a row"
    return int(row["orders"])


def slo_of(reader: ReadOnlyDatabase, run_id: str | None, default: Slo) -> Slo:
    """Return the limit and the target of a load test; `default` without a run, and where it has none."""
    row = None if run_id is None else reader.fetch_one(_SQL["run_slo"], {"run_id": run_id})
    if row is None:
        return default
    return Slo(row["limit_seconds"] or default.limit_seconds, row["target"] or default.target)


def _max_size(reader: ReadOnlyDatabase, selection: Selection, since: datetime, until: datetime) -> int:
    # The range in whole hours is exact enough.
    outer = list(spans(floor(since, 3_600), ceiling(until, 3_600)))
    rows = reader.fetch_all(_SQL["rollup_buckets"], selection.parameters() | span_parameters(outer))
    return sum(row["orders"] for row in rows)


def summary(reader: ReadOnlyDatabase, plan: Plan) -> Summary:
    """Return counts, percentiles and the distribution of a selection."""
    return _exact_summary(reader, plan) if plan.is_exact else summary_of_buckets(_rollup_rows(reader, plan))


def buckets(reader: ReadOnlyDatabase, plan: Plan) -> list[Bucket]:
    """Return the histogram with the rollup's edges, without empty buckets."""
    rows = (
        reader.fetch_all(_SQL["exact_buckets"], plan.selection.parameters())
        if plan.is_exact
        else _rollup_rows(reader, plan)
    )
    found: dict[int, dict[State, int]] = {}
    for row in rows:
        found.setdefault(row["upto_ms"], {})[State(row["outcome"])] = row["orders"]
    return [Bucket(upto_ms, outcomes) for upto_ms, outcomes in found.items()]


def over_time(reader: ReadOnlyDatabase, plan: Plan) -> tuple[list[Slice], list[Cell]]:
    """Return the percentiles of each time slice, and the cells of the heatmap."""
    parameters = plan.selection.parameters() | {"slice_seconds": plan.slice_seconds}
    if plan.is_exact:
        cells = [Cell(**row) for row in reader.fetch_all(_SQL["exact_cells"], parameters)]
        slices = [
            Slice(row["at"], row["orders"], dict(zip(SLICE_SHARES, row["times_ms"], strict=True)))
            for row in reader.fetch_all(_SQL["exact_times"], parameters)
        ]
        return slices, cells
    coarsest = next(grain for grain in GRAINS if grain <= plan.slice_seconds)
    wanted = span_parameters(list(spans(plan.since, plan.until, coarsest)))
    rows = reader.fetch_all(_SQL["rollup_cells"], parameters | wanted)
    by_slice: dict[datetime, list[Row]] = {}
    for row in rows:
        by_slice.setdefault(row["at"], []).append(row)
    slices = []
    for at, own in by_slice.items():
        counts = [(row["upto_ms"], row["orders"]) for row in own]
        longest = max(row["longest_ms"] for row in own)
        times = {share: interpolated_percentile(counts, share, longest) for share in SLICE_SHARES}
        slices.append(Slice(at, sum(orders for _, orders in counts), times))
    return slices, [Cell(row["at"], row["upto_ms"], row["orders"]) for row in rows]


def slowest(reader: ReadOnlyDatabase, plan: Plan, known: list[Bucket], limit: int) -> list[Row]:
    """Return the slowest orders of a selection with their time breakdown, slowest first."""
    above, seen = 0, 0
    for bucket in reversed(known):
        if seen >= limit:
            above = bucket.upto_ms
            break
        seen += bucket.orders
    parameters = plan.selection.parameters() | {"limit": limit, "above_ms": above}
    return reader.fetch_all(_SQL["slowest"], parameters)


def fault_spans(
    reader: ReadOnlyDatabase, since: datetime | None, until: datetime | None, limit: int = 200
) -> list[FaultSpan]:
    """Return the newest `limit` fault profiles that were active between two times, oldest first."""
    rows = reader.fetch_all(_SQL["fault_spans"], {"since": since, "until": until, "limit": limit})
    return [FaultSpan(**row) for row in reversed(rows)]


def disturbances(
    reader: ReadOnlyDatabase, since: datetime, until: datetime, limit: int = 200
) -> list[Disturbance]:
    """Return the newest `limit` disturbances between two times that were carried out, oldest first."""
    rows = reader.fetch_all(_SQL["disturbances"], {"since": since, "until": until, "limit": limit})
    return [Disturbance(**row) for row in reversed(rows)]


def active_faults(reader: ReadOnlyDatabase) -> FaultSpan | None:
    """Return the active fault profile, or None when none was ever set."""
    row = reader.fetch_one(_SQL["active_faults"])
    return FaultSpan(**row) if row else None


def fault_profiles(reader: ReadOnlyDatabase) -> list[str]:
    """Return the names of all profiles that were ever active, and `none`."""
    known = {row["profile"] for row in reader.fetch_all(_SQL["fault_profiles"])}
    return sorted(known | {"none"})


def run_names(reader: ReadOnlyDatabase, limit: int = 200) -> list[Row]:
    """Return run_id, scenario, started_at of the newest runs, newest first."""
    return reader.fetch_all(_SQL["run_names"], {"limit": limit})


def _exact_summary(reader: ReadOnlyDatabase, plan: Plan) -> Summary:
    row = reader.fetch_one(_SQL["exact_summary"], plan.selection.parameters())
    assert row is not None, "an aggregate returns a row"
    upto = list(accumulate(row["order_counts"]))
    total = upto[-1] if upto else 0

    def time_of(share: float) -> int:
        return int(row["times_ms"][bisect_left(upto, nearest_rank(share, total))])

    return Summary(
        orders=total,
        late=row["late"],
        outcomes={state: row[state.value] for state in TERMINAL_STATES},
        times_ms={share: time_of(share) for share in SHARES} if total else {},
        ecdf=[(time_of(share), share) for share in ecdf_shares(total)],
    )


def ecdf_shares(orders: int) -> list[float]:
    """Return the shares at which a distribution is read; between the last two is only the longest order."""
    if orders == 0:
        return []
    equal = (n / ECDF_POINTS for n in range(1, ECDF_POINTS))
    nines = math.log10(orders)
    tail = (1 - 10 ** (-n / TAIL_POINTS_PER_NINE) for n in range(1, int(nines * TAIL_POINTS_PER_NINE) + 1))
    return [*sorted({*equal, *tail}), 1.0]


def _rollup_rows(reader: ReadOnlyDatabase, plan: Plan) -> list[Row]:
    wanted = span_parameters(list(spans(plan.since, plan.until)))
    return reader.fetch_all(_SQL["rollup_buckets"], plan.selection.parameters() | wanted)


def summary_of_buckets(rows: list[Row]) -> Summary:
    """Return the summary of bucket rows: upto_ms (ascending), outcome, orders, late, longest_ms."""
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
        times_ms={share: interpolated_percentile(list(counts.items()), share, longest) for share in SHARES},
        ecdf=ecdf,
    )
