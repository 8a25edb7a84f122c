"""Deadline arithmetic: the latest start of an attempt for each step of an order. Pure functions of times.

An order has `limit` from acceptance to outcome. A step may use all the remaining time, except what later
steps need to succeed and the time reserved for compensation. So a slow step continues while there is time,
and no payment is charged that could neither be shipped nor refunded in time.

    accepted_at                                                               deadline_at
    |-- receive, validate, review --|-- charge --|-- prepare --|-- dispatch --|-- compensate, finish --|
                                    ^ not_after(REVIEW)                       ^ abort_at
                                                 ^ not_after(CHARGE)   ... and so on
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from db.domain import Step

ATTEMPT_TIMEOUT = timedelta(milliseconds=200)
"""Timeout of one gateway call (docs/decisions/0003)."""

STEP_NEEDS: dict[Step, timedelta] = {
    Step.RECEIVE: timedelta(milliseconds=800),
    Step.VALIDATE: timedelta(milliseconds=800),
    Step.REVIEW: timedelta(0),
    Step.CHARGE: timedelta(milliseconds=1_000),
    Step.PREPARE: timedelta(milliseconds=800),
    Step.DISPATCH: timedelta(milliseconds=800),
}
"""Time that earlier steps leave for each step: about the third quartile of its duration when two of three
calls fail, plus the hand-over between workers."""

COMPENSATION_NEED = timedelta(milliseconds=3_000)
"""Time reserved for the refund and the recall, which run in parallel."""

FINISH_NEED = timedelta(milliseconds=250)
"""Time reserved to store the outcome."""

MAX_BACKOFF = timedelta(seconds=30)
"""Longest delay before a retry."""

_FORWARD_STEPS = tuple(STEP_NEEDS)


def backoff(first: timedelta, retries: int, jitter: float, time_left: timedelta | None = None) -> timedelta:
    """Return the delay before a retry that follows `retries` others: exponential, at most MAX_BACKOFF.

    `jitter`, from 0 to 1, shortens it by up to half. While less time is left, the delay is at most a quarter
    of it, but at least half of `first`.
    """
    delay = min(first * (1 << min(retries, 16)), MAX_BACKOFF) * (1 - jitter / 2)
    return delay if time_left is None else min(delay, max(time_left / 4, first / 2))


@dataclass(frozen=True)
class OrderDeadlines:
    """The deadlines of one order. All times are aware UTC datetimes."""

    accepted_at: datetime
    limit: timedelta

    @property
    def deadline_at(self) -> datetime:
        return self.accepted_at + self.limit

    @property
    def abort_at(self) -> datetime:
        """When an order that is not dispatched must be aborted, so that it is compensated by `deadline_at`.

        If the limit is shorter than all reserved times together, they shrink in proportion.
        """
        return self.deadline_at - self._scaled(COMPENSATION_NEED + FINISH_NEED)

    def not_after(self, step: Step) -> datetime:
        """When the last attempt of a forward step may start. Raises KeyError for a compensation, which has no
        limit."""
        _ = STEP_NEEDS[step]
        later_steps = _FORWARD_STEPS[_FORWARD_STEPS.index(step) + 1 :]
        needs = sum((STEP_NEEDS[later] for later in later_steps), start=timedelta(0))
        return self.abort_at - self._scaled(needs) - ATTEMPT_TIMEOUT

    def _scaled(self, need: timedelta) -> timedelta:
        total = sum(STEP_NEEDS.values(), start=timedelta(0)) + COMPENSATION_NEED + FINISH_NEED
        return need * min(1.0, self.limit / (total + ATTEMPT_TIMEOUT))
