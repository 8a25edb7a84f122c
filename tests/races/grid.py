"""The grid of races: every request of a person, at every boundary of every step, in several ways."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from db.domain import COMPENSATIONS, Step

OPEN = "open"
"""Taking the order into the books: the boundary before the first step."""


class Request(StrEnum):
    CANCEL = "cancel"
    ADDRESS = "address"
    APPROVE = "approve"
    REJECT = "reject"


class Moment(StrEnum):
    """Where in a step, told by the statements that the step makes in the books."""

    BEFORE = "before"
    IN_THE_AIR = "in the air"
    """The attempt has begun and its call is not answered; in a review, the reviewer thinks."""

    ANSWERED = "answered"
    """The call is answered, or the reviewer has decided; the books do not know yet."""

    AFTER = "after"


class Place(StrEnum):
    IN_TASK = "in the workflow task"
    """A local activity: the workflow hears nothing until it is over."""

    LOST_TASK = "in a workflow task that is lost"
    """As before, but the task fails once the step is through: as after a crash, everything in it is done
    again, and what people ask may come in another order."""

    ACTIVITY = "as an activity"
    """The same code as a regular activity, beside which the workflow hears and answers."""


class Manner(StrEnum):
    """How long the step waits after the request is sent."""

    GO_ON = "goes on"
    REACHED = "until the server has it"
    ANSWERED = "until it is answered"


class Answered(StrEnum):
    ACCEPTED = "accepted"
    TOO_LATE = "too late"
    CLOSED = "closed"
    """The workflow had ended: nobody was there to answer."""

    NEVER = "never"
    """The order never ended, or the request was never answered."""


SHOWN = (Answered.ACCEPTED, Answered.TOO_LATE, Answered.CLOSED)


@dataclass(frozen=True)
class Boundary:
    step: str
    moment: Moment

    def __str__(self) -> str:
        return f"{self.step}, {self.moment}"


@dataclass(frozen=True)
class Cell:
    """One race: what is asked, where, and how."""

    request: Request
    boundary: Boundary
    place: Place
    manner: Manner


BOUNDARIES = (
    *(Boundary(OPEN, moment) for moment in (Moment.BEFORE, Moment.AFTER)),
    *(Boundary(step, moment) for step in (Step.RECEIVE, Step.VALIDATE) for moment in Moment),
    # A review begins where the validation ends.
    *(Boundary(Step.REVIEW, moment) for moment in (Moment.IN_THE_AIR, Moment.ANSWERED, Moment.AFTER)),
    *(Boundary(step, moment) for step in (Step.CHARGE, Step.PREPARE, Step.DISPATCH) for moment in Moment),
    *(Boundary(step, moment) for step in COMPENSATIONS for moment in Moment),
    *(Boundary(Step.FINISH, moment) for moment in (Moment.BEFORE, Moment.AFTER)),
)

IN_REVIEW = Boundary(Step.REVIEW, Moment.IN_THE_AIR)
_SHIPPED_BY_CHILD = (Step.PREPARE, Step.DISPATCH)


def ways(boundary: Boundary) -> Iterator[tuple[Place, Manner]]:
    """The places and manners that make sense at a boundary.

    Waiting for the answer inside the workflow task would wait for itself, except where the task is the
    shipping child's. No request is answered before the order is in the books.
    """
    for place in Place:
        for manner in Manner:
            if manner is Manner.ANSWERED:
                if boundary.step == OPEN:
                    continue
                if place is not Place.ACTIVITY and boundary.step not in _SHIPPED_BY_CHILD:
                    continue
            if boundary == IN_REVIEW and place is not Place.ACTIVITY:
                # Nothing is being done while the reviewer thinks: there is only one place.
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
    """What was hit, and how it was answered."""

    answers: Counter[tuple[Boundary, Request, Answered]] = field(default_factory=Counter)
    hits: Counter[Cell] = field(default_factory=Counter)

    def table(self) -> str:
        """The grid in Markdown: each cell shows accepted / too late / closed."""
        lines = [
            "| boundary | " + " | ".join(Request) + " |",
            "|---" * (len(Request) + 1) + "|",
        ]
        for boundary in BOUNDARIES:
            counts = (
                " / ".join(str(self.answers[boundary, request, answer]) for answer in SHOWN)
                for request in Request
            )
            lines.append(f"| {boundary} | " + " | ".join(counts) + " |")
        total = Counter(answer for _, _, answer in self.answers.elements())
        summary = ", ".join(f"{total[answer]} {answer}" for answer in Answered if total[answer])
        return "\n".join([*lines, "", f"{sum(total.values())} orders: {summary}"])
