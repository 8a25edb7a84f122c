"""Deadline arithmetic: how long each step of an order may take. Pure functions of times.

An order has `limit` from acceptance to outcome. A step may use all the time that remains, less what
the steps after it need to succeed and less what is kept back for compensation, so that one unlucky
step is not cut short while there is time, and nothing is charged that could not be shipped or undone.

    accepted_at                                                              deadline_at
    |-- receive, validate, review --|-- charge --|-- prepare --|-- dispatch --|-- undo --|-- finish |
                                    ^ not_after(REVIEW)
                                                 ^ not_after(CHARGE)   ... and so on
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from db.domain import Step

ATTEMPT_TIMEOUT = timedelta(milliseconds=200)
"""How long one outside call may take before it counts as hanging (docs/decisions/0003)."""

STEP_NEEDS: dict[Step, timedelta] = {
    Step.RECEIVE: timedelta(milliseconds=800),
    Step.VALIDATE: timedelta(milliseconds=800),
    Step.REVIEW: timedelta(0),
    Step.CHARGE: timedelta(milliseconds=1_000),
    Step.PREPARE: timedelta(milliseconds=800),
    Step.DISPATCH: timedelta(milliseconds=800),
}
"""Time kept free for each step by the steps before it: about the third quartile of a step's duration
when two of three calls fail, plus the hand-over between workers."""

COMPENSATION_NEED = timedelta(milliseconds=3_000)
"""Time kept back to refund and recall, which run side by side."""

FINISH_NEED = timedelta(milliseconds=250)
"""Time kept back to write the outcome."""

_FORWARD = tuple(STEP_NEEDS)


@dataclass(frozen=True)
class OrderDeadlines:
    """The time of one order. All moments are aware UTC datetimes."""

    accepted_at: datetime
    limit: timedelta

    @property
    def deadline_at(self) -> datetime:
        return self.accepted_at + self.limit

    @property
    def abort_at(self) -> datetime:
        """When an order that has not been dispatched must be turned back to be undone in time.

        The moments kept back shrink in proportion when the limit itself is shorter than they are.
        """
        return self.deadline_at - self._scaled(COMPENSATION_NEED + FINISH_NEED)

    def not_after(self, step: Step) -> datetime:
        """The moment after which no attempt of a forward step may start.

        Raises KeyError for a compensation: those never give up.
        """
        _ = STEP_NEEDS[step]
        later_steps = _FORWARD[_FORWARD.index(step) + 1 :]
        needs = sum((STEP_NEEDS[later] for later in later_steps), start=timedelta(0))
        return self.abort_at - self._scaled(needs) - ATTEMPT_TIMEOUT

    def _scaled(self, need: timedelta) -> timedelta:
        whole = sum(STEP_NEEDS.values(), start=timedelta(0)) + COMPENSATION_NEED + FINISH_NEED
        return need * min(1.0, self.limit / (whole + ATTEMPT_TIMEOUT))
