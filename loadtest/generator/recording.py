"""What is known of each order, recorded exactly by the process that sends it.

Locust's own statistics round times from 10 s up to whole seconds and forget what is in flight at the stop.
So every order has a record of its own from the moment it is due until its outcome is known, and the
verdict is made from the records alone; Locust's tables get the same times as named entries.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from enum import StrEnum
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Self

from loadtest.generator.survival import SurvivalCurve

if TYPE_CHECKING:
    from locust.event import Events

ENTRY_TYPE = "ORDER"
ACCEPT = "accept"
END_TO_END = "end to end"
COMPLETION = "completion"
OVERDUE = "past the limit, still open"


class Ending(StrEnum):
    """How the generator's knowledge of an order ends."""

    OUTCOME = "outcome"
    UNFINISHED = "unfinished"
    """The drain was over, its time was up, and the API said it still runs."""

    NOT_ACCEPTED = "not accepted"
    """Its start was never acknowledged, and the API knows no such order."""

    SHED = "shed"
    """Its start was answered 429: there was too much to do."""

    UNKNOWN = "unknown"
    """Nobody could say what becomes of it: the run has lost it."""


@dataclass(slots=True)
class OrderRecord:
    """One order. Times: `due` and `accepted` in seconds after the run's zero, the others in milliseconds.

    `lag_ms` is how late it was sent; `accept_ms` from sending to the acknowledgement, repeats included;
    `completion_ms` from acceptance to the outcome, as the books have it; `end_to_end_ms` from when it was
    due until the outcome was seen. `ending` is None while it is open.
    """

    number: int
    due: float
    lag_ms: float
    accept_ms: float | None = None
    accepted: float | None = None
    completion_ms: float | None = None
    end_to_end_ms: float | None = None
    outcome: str | None = None
    reason: str | None = None
    late: bool = False
    retries: int = 0
    ending: str | None = None

    def to_wire(self) -> list[Any]:
        return list(astuple(self))

    @classmethod
    def from_wire(cls, told: Iterable[Any]) -> Self:
        return cls(*told)


@dataclass(slots=True)
class Report:
    """What one generating process tells of itself, since its last report or in total.

    In total: `offered`, `skipped`, `open`, `overdue`, `cpu_seconds`, `requests` (a name and how it was
    answered), `failures` (calls without a usable answer, by name). Since the last report: `records` of orders
    whose end is known. `exhausted`: no more will be sent; `drained`: nothing more will be known.
    """

    share: int
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
        return wire | {"records": [record.to_wire() for record in self.records]}

    @classmethod
    def from_wire(cls, told: dict[str, Any]) -> Self:
        return cls(**told | {"records": [OrderRecord.from_wire(each) for each in told["records"]]})


class Recorder:
    """The records of one process, and Locust's entries made from them."""

    def __init__(
        self, events: "Events", slo_seconds: float, began: float, *, exclude_rejected: bool = False
    ) -> None:
        """`began` is the run's zero, a time of `time.perf_counter()`. With `exclude_rejected`, orders that were shed
        are counted apart instead of as late."""
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
        self.lifetimes = SurvivalCurve()

    def sent(self, number: int, due: float) -> OrderRecord:
        """An order leaves; `due` is a time of `time.perf_counter()`."""
        now = time.perf_counter()
        record = OrderRecord(number, due - self._began, (now - due) * 1000)
        self.offered += 1
        self.open[number] = record
        # An order that is never accepted must become overdue too.
        heappush(self._deadlines, (now + self._slo_seconds, number))
        return record

    def skip(self) -> None:
        """An order was due and could not be sent at all."""
        self.offered += 1
        self.skipped += 1

    def accepted(self, record: OrderRecord, sent_at: float) -> None:
        """The start was acknowledged just now."""
        now = time.perf_counter()
        record.accept_ms = (now - sent_at) * 1000
        record.accepted = now - self._began
        heappush(self._deadlines, (now + self._slo_seconds, record.number))
        self._fire(ACCEPT, record.accept_ms)

    def found(self, record: OrderRecord, seconds: float) -> None:
        """The books know an order whose start nobody has acknowledged: accepted so many seconds ago, by a
        clock that may differ from ours, but not before it was sent."""
        now = time.perf_counter()
        sent = self._began + record.due + record.lag_ms / 1000
        record.accepted = min(max(now - seconds, sent), now) - self._began
        self._overdue.discard(record.number)
        heappush(self._deadlines, (self._deadline(record), record.number))

    def finished(self, record: OrderRecord, outcome: str, reason: str | None, completion_ms: float) -> None:
        """The outcome was seen just now; `completion_ms` is what the books say of it."""
        now = time.perf_counter()
        record.outcome, record.reason = outcome, reason
        record.completion_ms = completion_ms
        record.end_to_end_ms = (now - self._began - record.due) * 1000
        record.late = completion_ms > self._slo_seconds * 1000
        problem = f"late: not within {self._slo_seconds:g} s" if record.late else None
        self._fire(COMPLETION, completion_ms, problem)
        self._fire(END_TO_END, record.end_to_end_ms, problem)
        self._close(record, Ending.OUTCOME)

    def gave_up(self, record: OrderRecord, ending: Ending) -> None:
        """The order stays without a known outcome: it counts as late, with the time it has taken so far,
        unless it was shed and may be."""
        if ending is Ending.SHED and self._exclude_rejected:
            self._close(record, ending)
            return
        record.late = True
        record.end_to_end_ms = (time.perf_counter() - self._began - record.due) * 1000
        self._fire(END_TO_END, record.end_to_end_ms, f"late: {ending}")
        self._close(record, ending)

    def is_overdue(self, record: OrderRecord) -> bool:
        """Whether the order has had its time: from acceptance, or from sending if it was never accepted."""
        return time.perf_counter() >= self._deadline(record)

    def note_overdue(self) -> None:
        """Counts orders that have just passed the limit, to be called several times a second."""
        now = time.perf_counter()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heappop(self._deadlines)
            record = self.open.get(number)
            # Accepted orders have two entries, of which the one from acceptance counts.
            if record is None or number in self._overdue or now < self._deadline(record) - 0.001:
                continue
            self._overdue.add(number)
            self._fire(OVERDUE, self._slo_seconds * 1000, f"not within {self._slo_seconds:g} s")

    def report(self, share: int, *, exhausted: bool, drained: bool) -> Report:
        """What is known now; the records in it are handed over, and not told again."""
        closed, self._closed = self._closed, []
        return Report(
            share=share,
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
            return self._began + record.due + record.lag_ms / 1000 + self._slo_seconds
        return self._began + record.accepted + self._slo_seconds

    def _close(self, record: OrderRecord, ending: Ending) -> None:
        record.ending = ending.value
        del self.open[record.number]
        self._overdue.discard(record.number)
        self._closed.append(record)

    def _fire(self, name: str, milliseconds: float, problem: str | None = None) -> None:
        self._events.request.fire(
            request_type=ENTRY_TYPE,
            name=name,
            response_time=milliseconds,
            response_length=0,
            exception=problem,
            context={},
        )


class Tally:
    """The records of all processes together: what the verdict is made from."""

    def __init__(self) -> None:
        self.records: list[OrderRecord] = []
        self.late = 0
        self.finished = 0
        self.shed_apart = 0
        """Orders that were shed and are not counted as late."""

        self._latest: dict[int, Report] = {}

    def take(self, report: Report) -> None:
        for record in report.records:
            self.late += record.late
            self.finished += record.ending == Ending.OUTCOME
            self.shed_apart += record.ending == Ending.SHED and not record.late
        self.records += report.records
        report.records = []
        self._latest[report.share] = report

    @property
    def reports(self) -> list[Report]:
        """The last report of each process."""
        return list(self._latest.values())

    @property
    def offered(self) -> int:
        return sum(report.offered for report in self.reports)

    @property
    def is_exhausted(self) -> bool:
        """Whether no process that has told of itself will send any more."""
        return bool(self._latest) and all(report.exhausted for report in self.reports)

    @property
    def skipped(self) -> int:
        return sum(report.skipped for report in self.reports)

    @property
    def in_flight(self) -> int:
        return sum(report.open for report in self.reports)

    @property
    def late_so_far(self) -> int:
        """Late outcomes, and orders that are open past the limit."""
        return self.late + sum(report.overdue for report in self.reports)

    @property
    def judged_so_far(self) -> int:
        """Orders that are known to be on time or late by now."""
        return len(self.records) - self.shed_apart + sum(report.overdue for report in self.reports)

    @property
    def unaccounted(self) -> int:
        """Orders that were sent and of which nothing will be known: lost with their process, or unknown."""
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
