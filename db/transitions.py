"""The state machine of an order, written once.

`STATE_MACHINE` is the only table of steps and states. The order repository takes its guards from it, the
audit its legal state changes, the documentation its diagram. Tests compare it with the SQL function
`is_legal_transition()`, which the trigger of table `orders` uses.

A step is due when it is the order's `current_step`, the order is in the step's due state, and the order is
not aborted. So a step that was completed is never due again, even where it leaves the state unchanged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from db.domain import TERMINAL_STATES, Reason, State, Step


@dataclass(frozen=True)
class Transition:
    """A forward step: due in `due_state`, leads to `state_after`.

    A step with a `passed_state` writes an event for that state too. `compensation` reverts an attempted step.
    """

    step: Step
    due_state: State
    state_after: State
    next_step: Step
    passed_state: State | None = None
    compensation: Step | None = None

    @property
    def path(self) -> tuple[State, ...]:
        """The states of the step's events, first to last, without the due state."""
        passed = () if self.passed_state is None else (self.passed_state,)
        changed = () if self.state_after is self.due_state else (self.state_after,)
        return (*passed, *changed)


@dataclass(frozen=True)
class StateMachine:
    """All forward steps in order, and the states in which an order can be aborted.

    `no_abort_from` is the first state in which an order can no longer be aborted; a reason in
    `earlier_abort_limits` has an earlier one.
    """

    transitions: tuple[Transition, ...]
    no_abort_from: State
    earlier_abort_limits: Mapping[Reason, State]

    def of(self, step: Step) -> Transition | None:
        """Return the transition of a forward step; None for a compensation."""
        return next((each for each in self.transitions if each.step is step), None)

    def abort_limit(self, reason: Reason) -> State:
        """Return the first state in which an order can no longer be aborted for this reason."""
        return self.earlier_abort_limits.get(reason, self.no_abort_from)

    def is_completed(self, step: Step, current_step: Step | None) -> bool:
        """Return whether an order that was not aborted has completed `step`; `current_step` is None once the
        order is completed."""
        if current_step is None:
            return True
        order = [each.step for each in self.transitions]
        return order.index(current_step) > order.index(step)

    def compensations(self) -> dict[Step, list[Step]]:
        """Return each compensation with the steps that it reverts, in the order of these steps."""
        reverted: dict[Step, list[Step]] = {}
        for each in self.transitions:
            if each.compensation is not None:
                reverted.setdefault(each.compensation, []).append(each.step)
        return reverted

    def row_changes(self) -> list[tuple[State, State]]:
        """Return the state changes that one UPDATE of an order may make."""
        forward = [
            (each.due_state, each.state_after)
            for each in self.transitions
            if each.state_after is not each.due_state
        ]
        return [*forward, *self._aborts()]

    def event_changes(self) -> list[tuple[State, State]]:
        """Return the state changes that two consecutive events of an order may show."""
        forward: list[tuple[State, State]] = []
        for each in self.transitions:
            states = (each.due_state, *each.path)
            forward += pairwise(states)
        return [*forward, *self._aborts()]

    def _aborts(self) -> Iterator[tuple[State, State]]:
        ended_early = [state for state in TERMINAL_STATES if state is not State.COMPLETED]
        for state in State:
            if self.no_abort_from.is_past(state):
                yield from ((state, outcome) for outcome in ended_early)

    def mermaid(self) -> str:
        """Return the state diagram for the documentation, as Mermaid text."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.transitions[0].due_state}"]
        for each in self.transitions:
            before = each.due_state
            for after in each.path or (each.state_after,):
                lines.append(f"    {before} --> {after}: {each.step}")
                before = after
        abortable = [state for state in State if self.no_abort_from.is_past(state)]
        lines += [f"    {state} --> cancelled_or_failed: abort" for state in abortable]
        lines += ["    completed --> [*]", "    cancelled_or_failed --> [*]"]
        return "\n".join(lines)


STATE_MACHINE = StateMachine(
    transitions=(
        Transition(Step.RECEIVE, State.RECEIVED, State.RECEIVED, Step.VALIDATE),
        Transition(Step.VALIDATE, State.RECEIVED, State.IN_REVIEW, Step.REVIEW, passed_state=State.VALIDATED),
        Transition(Step.REVIEW, State.IN_REVIEW, State.APPROVED, Step.CHARGE),
        Transition(Step.CHARGE, State.APPROVED, State.CHARGED, Step.PREPARE, compensation=Step.REFUND),
        Transition(Step.PREPARE, State.CHARGED, State.PREPARED, Step.DISPATCH, compensation=Step.RECALL),
        Transition(Step.DISPATCH, State.PREPARED, State.DISPATCHED, Step.FINISH, compensation=Step.RECALL),
        Transition(Step.FINISH, State.DISPATCHED, State.COMPLETED, Step.FINISH),
    ),
    no_abort_from=State.DISPATCHED,
    earlier_abort_limits={Reason.REVIEW_REJECTED: State.APPROVED, Reason.REVIEW_EXPIRED: State.APPROVED},
)
