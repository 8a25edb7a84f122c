"""The pipeline of the Overview: the orders in each state, and the performance of the steps after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median_low

from db.database import Row
from db.domain import TERMINAL_STATES, State, Step
from db.transitions import STATE_MACHINE


@dataclass(frozen=True)
class StepStatus:
    """The stays of finished orders in one step. `median_ms` is None if no order has completed the step."""

    step: Step
    median_ms: int | None
    failed_attempts: int


@dataclass(frozen=True)
class Stage:
    """A state, the number of its orders, and the steps for which they wait."""

    state: State
    orders: int
    steps: list[StepStatus]


def stages(
    open_orders: Mapping[State, int], outcomes: Mapping[State, int], rows: Sequence[Row], since: datetime
) -> list[Stage]:
    """Return each state in which an order can be stored, in the order of the pipeline.

    `rows`, of `db.read_models.step_times.newest`, are the orders of which those that finished since then show
    the performance of the steps. `outcomes` are the numbers of orders that finished since then.
    """
    by_state: dict[State, list[StepStatus]] = {}
    recent = [row for row in rows if row["finished_at"] >= since]
    previous = None
    for transition in STATE_MACHINE.transitions:
        of_state = by_state.setdefault(transition.due_state, [])
        if transition.step is not Step.FINISH:
            of_state.append(_status(transition.step, previous, recent))
            previous = transition.step
    open_stages = [Stage(state, open_orders.get(state, 0), steps) for state, steps in by_state.items()]
    return [*open_stages, *(Stage(state, outcomes.get(state, 0), []) for state in TERMINAL_STATES)]


def _status(step: Step, previous: Step | None, rows: Sequence[Row]) -> StepStatus:
    """The stay begins when the previous step is completed: it contains failed attempts, the delays between
    them, and queueing."""
    end = f"{step}_end_ms"
    stays = [
        row[end] - (row[f"{previous}_end_ms"] if previous else 0) for row in rows if row[end] is not None
    ]
    # A review has no attempts.
    failed = sum(row.get(f"{step}_failures", 0) for row in rows)
    return StepStatus(step, median_low(stays) if stays else None, failed)
