"""The grid of races: every request at every boundary of every step, with several timings."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from db.domain import COMPENSATIONS, Step

OPEN = "open"
"""Inserting the order: the boundary before the first step."""


class Request(StrEnum):
    CANCEL = "cancel"
    ADDRESS = "address"
    APPROVE = "approve"
    REJECT = "reject"


class Moment(StrEnum):
    """When in a step, relative to its database statements."""

    BEFORE = "before"
    IN_FLIGHT = "in flight"
    """The attempt was started and its call has not returned; in a review, the reviewer has not decided."""

    ANSWERED = "answered"
    """The call has returned, or the reviewer has decided, and the result is not stored yet."""

    AFTER = "after"


class Place(StrEnum):
    IN_TASK = "in the workflow task"
    """A local activity: the workflow handles no signal until it ends."""

    LOST_TASK = "in a workflow task that is lost"
    """A local activity in a workflow task that fails after the step: as after a crash, the task is repeated,
    and requests may arrive in another order."""

    ACTIVITY = "as an activity"
    """A regular activity: the workflow handles requests while it runs."""


class Manner(StrEnum):
    """How long the step waits after the request is sent."""

    CONTINUE = "does not wait"
    REACHED = "until the server has stored it"
    ANSWERED = "until the response"


class Answered(StrEnum):
    ACCEPTED = "accepted"
    TOO_LATE = "too late"
    CLOSED = "closed"
    """The workflow was closed."""

    NEVER = "never"
    """The order never finished, or the request got no response."""


SHOWN = (Answered.ACCEPTED, Answered.TOO_LATE, Answered.CLOSED)


@dataclass(frozen=True)
class Boundary:
    step: str
    moment: Moment

    def __str__(self) -> str:
        return f"{self.step}, {self.moment}"


@dataclass(frozen=True)
class Cell:
    """One race: which request, at which boundary, and how."""

    request: Request
    boundary: Boundary
    place: Place
    manner: Manner


BOUNDARIES = (
    *(Boundary(OPEN, moment) for moment in (Moment.BEFORE, Moment.AFTER)),
    *(Boundary(step, moment) for step in (Step.RECEIVE, Step.VALIDATE) for moment in Moment),
    # A review begins where the validation ends.
    *(Boundary(Step.REVIEW, moment) for moment in (Moment.IN_FLIGHT, Moment.ANSWERED, Moment.AFTER)),
    *(Boundary(step, moment) for step in (Step.CHARGE, Step.PREPARE, Step.DISPATCH) for moment in Moment),
    *(Boundary(step, moment) for step in COMPENSATIONS for moment in Moment),
    *(Boundary(Step.FINISH, moment) for moment in (Moment.BEFORE, Moment.AFTER)),
)

IN_REVIEW = Boundary(Step.REVIEW, Moment.IN_FLIGHT)
_SHIPPED_BY_CHILD = (Step.PREPARE, Step.DISPATCH)


def ways(boundary: Boundary) -> Iterator[tuple[Place, Manner]]:
    """Yield the places and manners that are possible at a boundary.

    Waiting for the response inside the workflow task would deadlock, except in a task of the shipping child.
    No request gets a response before the order is inserted.
    """
    for place in Place:
        for manner in Manner:
            if manner is Manner.ANSWERED:
                if boundary.step == OPEN:
                    continue
                if place is not Place.ACTIVITY and boundary.step not in _SHIPPED_BY_CHILD:
                    continue
            if boundary == IN_REVIEW and place is not Place.ACTIVITY:
                # No step runs during a review.
                continue
            yield place, manner


CELLS = tuple(
    Cell(request, boundary, place, manner)
    for boundary in BOUNDARIES
    for request in Request
    for place, manner in ways(boundary)
)


@dataclass
class Score:
    """The races that were run, and their results."""

    responses: Counter[tuple[Boundary, Request, Answered]] = field(default_factory=Counter)
    hits: Counter[Cell] = field(default_factory=Counter)

    def table(self) -> str:
        """Return the grid in Markdown; each cell is accepted / too late / closed."""
        lines = [
            "| boundary | " + " | ".join(Request) + " |",
            "|---" * (len(Request) + 1) + "|",
        ]
        for boundary in BOUNDARIES:
            counts = (
                " / ".join(str(self.responses[boundary, request, answer]) for answer in SHOWN)
                for request in Request
            )
            lines.append(f"| {boundary} | " + " | ".join(counts) + " |")
        total = Counter(answer for _, _, answer in self.responses.elements())
        summary = ", ".join(f"{total[answer]} {answer}" for answer in Answered if total[answer])
        return "\n".join([*lines, "", f"{sum(total.values())} orders: {summary}"])
