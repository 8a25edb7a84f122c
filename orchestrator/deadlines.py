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

from db.domain import GATEWAY_STEPS, Step

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


@dataclass(frozen=True)
class TimeNeeds:
    """The times that an order reserves, in seconds: the need and the attempt timeout of each step, and the
    need of the compensations. An order carries them, so that its deadlines do not change while it runs."""

    steps: dict[str, float]
    attempts: dict[str, float]
    compensation: float

    @property
    def longest_attempt(self) -> float:
        return max(self.attempts.values())

    @property
    def total_seconds(self) -> float:
        """The shortest limit in which every reserved time fits."""
        return (
            sum(self.steps.values()) + self.compensation + FINISH_NEED.total_seconds() + self.longest_attempt
        )

    @property
    def is_valid(self) -> bool:
        times = (*self.steps.values(), *self.attempts.values(), self.compensation)
        return (
            self.steps.keys() == set(_FORWARD_STEPS)
            and self.attempts.keys() == set(GATEWAY_STEPS)
            and all(0 <= time <= MAX_NEED_SECONDS for time in times)
        )


MAX_NEED_SECONDS = 600.0

SIMULATED_NEEDS = TimeNeeds(
    steps={step.value: need.total_seconds() for step, need in STEP_NEEDS.items()},
    attempts={step.value: ATTEMPT_TIMEOUT.total_seconds() for step in GATEWAY_STEPS},
    compensation=COMPENSATION_NEED.total_seconds(),
)
"""Of the simulated gateways."""


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
    needs: TimeNeeds = SIMULATED_NEEDS

    @property
    def deadline_at(self) -> datetime:
        return self.accepted_at + self.limit

    @property
    def abort_at(self) -> datetime:
        """When an order that is not dispatched must be aborted, so that it is compensated by `deadline_at`.

        If the limit is shorter than all reserved times together, they shrink in proportion.
        """
        return self.deadline_at - self._scaled(self.needs.compensation + FINISH_NEED.total_seconds())

    def not_after(self, step: Step) -> datetime:
        """When the last attempt of a forward step may start. Raises ValueError for a compensation, which has
        no limit."""
        later_steps = _FORWARD_STEPS[_FORWARD_STEPS.index(step) + 1 :]
        needs = sum(self.needs.steps[later] for later in later_steps)
        # The review, a step without an attempt, leaves time for one too.
        attempt = self.needs.attempts.get(step, self.needs.longest_attempt)
        return self.abort_at - self._scaled(needs) - timedelta(seconds=attempt)

    def _scaled(self, need_seconds: float) -> timedelta:
        share = min(1.0, self.limit.total_seconds() / self.needs.total_seconds)
        return timedelta(seconds=need_seconds * share)
