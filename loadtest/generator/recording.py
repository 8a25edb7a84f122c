"""Exact records of every order, made by the process that sends it.

Locust's statistics round times of 10 s and more to whole seconds and forget orders in flight at the stop. So
each order has a record from its scheduled send time until its outcome. The verdict uses these records alone.
Locust's charts and its row "Aggregated" get one entry for each counted order.
"""

import time
from collections import Counter
from dataclasses import astuple, dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from locust.event import Events

ENTRY_TYPE = "ORDER"
COMPLETION = "completion"
NO_OUTCOME = "no outcome"


class Ending(StrEnum):
    """What the generator knows about an order at the end of the run."""

    OUTCOME = "outcome"
    UNFINISHED = "unfinished"
    """The order exceeded the limit and was still running at the end of the drain."""

    NOT_ACCEPTED = "not accepted"
    """The start was not acknowledged, and the API does not know the order."""

    REJECTED = "rejected"
    """The API rejected the start with 429."""

    UNKNOWN = "unknown"
    """The API did not return the state of the order."""


@dataclass(slots=True)
class OrderRecord:
    """One order. `due` and `accepted` are seconds after the start of the run, other times are milliseconds.

    `send_delay_ms`: from the scheduled to the actual send time. `accept_ms`: from sending to the
    acknowledgement, retries included. `completion_ms`: from acceptance to the outcome, as stored in the order
    database. `end_to_end_ms`: from the scheduled send time until the generator saw the outcome. `ending` is
    None while the order is open.
    """

    number: int
    due: float
    send_delay_ms: float
    accept_ms: float | None = None
    accepted: float | None = None
    completion_ms: float | None = None
    end_to_end_ms: float | None = None
    outcome: str | None = None
    reason: str | None = None
    late: bool = False
    retries: int = 0
    ending: str | None = None


@dataclass(slots=True)
class Report:
    """Progress report of one generator process.

    Totals: `offered`, `skipped`, `open`, `overdue`, `cpu_seconds`, `requests` (counts by name and result).
    `records` are the orders that ended since the last report. `exhausted`: the process sends no more orders.
    `drained`: this is its last report.
    """

    worker_index: int
    offered: int
    skipped: int
    open: int
    overdue: int
    cpu_seconds: float
    seconds: float
    requests: dict[str, int]
    broken_promises: list[str]
    records: list[OrderRecord]
    exhausted: bool = False
    drained: bool = False

    def to_wire(self) -> dict[str, Any]:
        wire = {name: getattr(self, name) for name in self.__slots__}
        return wire | {"records": [astuple(record) for record in self.records]}

    @classmethod
    def from_wire(cls, data: dict[str, Any]) -> Self:
        return cls(**data | {"records": [OrderRecord(*record) for record in data["records"]]})


class Recorder:
    """Records the orders of one process and reports their times to Locust."""

    def __init__(
        self, events: "Events", slo_seconds: float, began: float, *, exclude_rejected: bool = False
    ) -> None:
        """`began` is the start of the run, a time of `time.perf_counter()`. With `exclude_rejected`, orders
        that the API rejects with 429 do not count as late."""
        self._events = events
        self._slo_seconds = slo_seconds
        self._exclude_rejected = exclude_rejected
        self._began = began
        self._cpu_before = time.process_time()
        self.open: dict[int, OrderRecord] = {}
        self._closed: list[OrderRecord] = []
        self._deadlines: list[tuple[float, int]] = []  # a heap
        self._overdue: set[int] = set()
        self.offered = 0
        self.skipped = 0
        self.requests: Counter[str] = Counter()
        self.broken_promises: list[str] = []

    def sent(self, number: int, due: float) -> OrderRecord:
        """Record that an order is sent now; `due` is a time of `time.perf_counter()`."""
        now = time.perf_counter()
        record = OrderRecord(number, due - self._began, (now - due) * 1000)
        self.offered += 1
        self.open[number] = record
        # An order that is never accepted becomes overdue too.
        heappush(self._deadlines, (now + self._slo_seconds, number))
        return record

    def skip(self) -> None:
        """Record that an order was due but could not be sent."""
        self.offered += 1
        self.skipped += 1

    def accepted(self, record: OrderRecord, sent_at: float) -> None:
        """Record that the start was acknowledged now."""
        now = time.perf_counter()
        record.accept_ms = (now - sent_at) * 1000
        record.accepted = now - self._began
        heappush(self._deadlines, (now + self._slo_seconds, record.number))

    def accepted_before(self, record: OrderRecord, seconds: float) -> None:
        """Record that an order without an acknowledgement was accepted `seconds` ago.

        That age comes from the server's clock, so acceptance is never set before the send time.
        """
        now = time.perf_counter()
        sent = self._began + record.due + record.send_delay_ms / 1000
        record.accepted = min(max(now - seconds, sent), now) - self._began
        self._overdue.discard(record.number)
        heappush(self._deadlines, (self._deadline(record), record.number))

    def finished(self, record: OrderRecord, outcome: str, reason: str | None, completion_ms: float) -> None:
        """Record an outcome that was seen now; `completion_ms` is from the order database."""
        now = time.perf_counter()
        record.outcome, record.reason = outcome, reason
        record.completion_ms = completion_ms
        record.end_to_end_ms = (now - self._began - record.due) * 1000
        record.late = completion_ms > self._slo_seconds * 1000
        problem = f"late: not within {self._slo_seconds:g} s" if record.late else None
        self._report_to_locust(COMPLETION, completion_ms, problem)
        self._close(record, Ending.OUTCOME)

    def ended_without_outcome(self, record: OrderRecord, ending: Ending) -> None:
        """Record an order as late, with its time so far; a rejected order only if rejected orders count."""
        if ending is Ending.REJECTED and self._exclude_rejected:
            self._close(record, ending)
            return
        record.late = True
        record.end_to_end_ms = (time.perf_counter() - self._began - record.due) * 1000
        self._report_to_locust(NO_OUTCOME, record.end_to_end_ms, f"late: {ending}")
        self._close(record, ending)

    def is_overdue(self, record: OrderRecord) -> bool:
        """Return whether the limit has passed, from acceptance or, if it was never accepted, from sending."""
        return time.perf_counter() >= self._deadline(record)

    def count_overdue(self) -> None:
        """Count open orders that have passed the limit. Call it several times a second."""
        now = time.perf_counter()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heappop(self._deadlines)
            record = self.open.get(number)
            # An accepted order has two entries; the one from its acceptance counts.
            if record is None or number in self._overdue or now < self._deadline(record) - 0.001:
                continue
            self._overdue.add(number)

    def report(self, worker_index: int, *, exhausted: bool, drained: bool) -> Report:
        """Return the current report. Its records are removed here, so each is reported once."""
        closed, self._closed = self._closed, []
        return Report(
            worker_index=worker_index,
            offered=self.offered,
            skipped=self.skipped,
            open=len(self.open),
            overdue=len(self._overdue),
            cpu_seconds=time.process_time() - self._cpu_before,
            seconds=time.perf_counter() - self._began,
            requests=dict(self.requests),
            broken_promises=list(self.broken_promises),
            records=closed,
            exhausted=exhausted,
            drained=drained,
        )

    def _deadline(self, record: OrderRecord) -> float:
        if record.accepted is None:
            return self._began + record.due + record.send_delay_ms / 1000 + self._slo_seconds
        return self._began + record.accepted + self._slo_seconds

    def _close(self, record: OrderRecord, ending: Ending) -> None:
        record.ending = ending.value
        del self.open[record.number]
        self._overdue.discard(record.number)
        self._closed.append(record)

    def _report_to_locust(self, name: str, milliseconds: float, problem: str | None = None) -> None:
        self._events.request.fire(
            request_type=ENTRY_TYPE,
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=problem,
            context={},
        )


class Tally:
    """The records and latest reports of all generator processes, as input for the verdict."""

    def __init__(self) -> None:
        self.records: list[OrderRecord] = []
        self.late = 0
        self.finished = 0
        self.excluded = 0
        """Rejected orders that do not count as late."""

        self._latest: dict[int, Report] = {}

    def add(self, report: Report) -> None:
        for record in report.records:
            self.late += record.late
            self.finished += record.ending == Ending.OUTCOME
            self.excluded += record.ending == Ending.REJECTED and not record.late
        self.records += report.records
        report.records = []
        self._latest[report.worker_index] = report

    @property
    def reports(self) -> list[Report]:
        """The latest report of each process."""
        return list(self._latest.values())

    @property
    def offered(self) -> int:
        return sum(report.offered for report in self.reports)

    @property
    def is_exhausted(self) -> bool:
        """Whether all processes have sent their last order."""
        return bool(self._latest) and all(report.exhausted for report in self.reports)

    @property
    def skipped(self) -> int:
        return sum(report.skipped for report in self.reports)

    @property
    def in_flight(self) -> int:
        return sum(report.open for report in self.reports)

    @property
    def late_so_far(self) -> int:
        """Late outcomes and open orders past the limit."""
        return self.late + sum(report.overdue for report in self.reports)

    @property
    def counted_so_far(self) -> int:
        """Orders that are already known to be on time or late."""
        return len(self.records) - self.excluded + sum(report.overdue for report in self.reports)

    @property
    def unaccounted(self) -> int:
        """Orders without a known result: lost with their process, or their state is unknown."""
        known = sum(1 for record in self.records if record.ending != Ending.UNKNOWN)
        return self.offered - self.skipped - known

    @property
    def requests(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for report in self.reports:
            total.update(report.requests)
        return total

    @property
    def broken_promises(self) -> list[str]:
        return [promise for report in self.reports for promise in report.broken_promises]

    @property
    def cpu_seconds(self) -> float:
        return sum(report.cpu_seconds for report in self.reports)
