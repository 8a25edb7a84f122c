"""The transition table, and what follows from it."""

from dataclasses import replace
from enum import StrEnum
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.domain import COMPENSATIONS, GATEWAY_STEPS, TERMINAL_STATES, Reason, State, Step
from db.transitions import STATE_MACHINE, StateMachine, Transition


class NewStep(StrEnum):
    WRAP = "wrap"


class NewState(StrEnum):
    WRAPPED = "wrapped"


def with_a_fictitious_step() -> StateMachine:
    """Return the table with a step `wrap` between prepare and dispatch: one new row, and two changed ends."""
    *before, prepare, dispatch, finish = STATE_MACHINE.transitions
    wrap = Transition(NewStep.WRAP, State.PREPARED, NewState.WRAPPED, Step.DISPATCH)  # type: ignore[arg-type]
    rows = (
        *before,
        replace(prepare, next_step=NewStep.WRAP),
        wrap,
        replace(dispatch, due_state=NewState.WRAPPED),
        finish,
    )
    return replace(STATE_MACHINE, transitions=rows)


def test_each_step_ends_where_the_next_one_is_due() -> None:
    for transition, following in pairwise(STATE_MACHINE.transitions):
        assert transition.next_step is following.step
        assert transition.state_after is following.due_state


def test_the_table_passes_through_every_state_in_order() -> None:
    states = [STATE_MACHINE.transitions[0].due_state]
    states += [state for transition in STATE_MACHINE.transitions for state in transition.path]
    assert states == [state for state in State if state not in TERMINAL_STATES] + [State.COMPLETED]


def test_the_table_has_every_gateway_step() -> None:
    forward = {transition.step for transition in STATE_MACHINE.transitions}
    assert {*forward, *COMPENSATIONS} == {*GATEWAY_STEPS, Step.REVIEW, Step.FINISH}
    assert set(STATE_MACHINE.compensations()) == set(COMPENSATIONS)


def test_one_row_adds_a_step_everywhere() -> None:
    """In Python. What else names each step or state is found by a search for `prepare` and `prepared`: the
    enums of db/domain.py, the type order_state and is_legal_transition() in SQL (held to this table by a
    test), and the step's activity, its deadline and its call in a workflow."""
    extended = with_a_fictitious_step()
    wrapped = NewState.WRAPPED
    added = {(State.PREPARED, wrapped), (wrapped, State.DISPATCHED)}
    for changes, extended_changes in (
        (STATE_MACHINE.row_changes(), extended.row_changes()),
        (STATE_MACHINE.event_changes(), extended.event_changes()),
    ):
        assert set(extended_changes) - set(changes) == added
        assert set(changes) - set(extended_changes) == {(State.PREPARED, State.DISPATCHED)}
    assert "prepared --> wrapped: wrap\n    wrapped --> dispatched: dispatch" in extended.mermaid()
    assert extended.is_completed(Step.PREPARE, NewStep.WRAP)  # type: ignore[arg-type]
    assert not extended.is_completed(NewStep.WRAP, NewStep.WRAP)  # type: ignore[arg-type]
    assert extended.is_completed(NewStep.WRAP, Step.DISPATCH)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", TERMINAL_STATES)
def test_an_outcome_never_changes(state: State) -> None:
    assert not [after for before, after in STATE_MACHINE.event_changes() if before is state]


@pytest.mark.parametrize("state", [state for state in State if state not in TERMINAL_STATES])
def test_an_order_can_end_early_exactly_until_it_is_dispatched(state: State) -> None:
    early = {(state, State.CANCELLED), (state, State.FAILED)}
    assert early.issubset(STATE_MACHINE.event_changes()) == State.DISPATCHED.is_past(state)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_of_the_review_aborts_only_until_the_approval(reason: Reason) -> None:
    is_of_review = reason in (Reason.REVIEW_REJECTED, Reason.REVIEW_EXPIRED)
    assert STATE_MACHINE.abort_limit(reason) is (State.APPROVED if is_of_review else State.DISPATCHED)


@pytest.mark.parametrize("step", [transition.step for transition in STATE_MACHINE.transitions])
def test_a_step_is_completed_once_a_later_one_is_current(step: Step) -> None:
    steps = [transition.step for transition in STATE_MACHINE.transitions]
    completed = [STATE_MACHINE.is_completed(step, current) for current in steps]
    assert completed == [False] * (steps.index(step) + 1) + [True] * (len(steps) - steps.index(step) - 1)
    assert STATE_MACHINE.is_completed(step, None)


@st.composite
def legal_paths(draw: st.DrawFn) -> list[State]:
    path = [State.RECEIVED]
    while not path[-1].is_terminal:
        path.append(
            draw(
                st.sampled_from(
                    [after for before, after in STATE_MACHINE.event_changes() if before is path[-1]]
                )
            )
        )
    return path


@given(legal_paths())
def test_every_legal_path_goes_forward(path: list[State]) -> None:
    for earlier, later in pairwise(path):
        assert later.is_past(earlier)
        assert not earlier.is_past(later)


@given(legal_paths())
def test_every_legal_path_ends_in_exactly_one_outcome(path: list[State]) -> None:
    assert [state for state in path if state.is_terminal] == [path[-1]]


@given(legal_paths())
def test_a_completed_order_passed_every_state(path: list[State]) -> None:
    if path[-1] is State.COMPLETED:
        assert path == [state for state in State if state not in (State.CANCELLED, State.FAILED)]


@given(legal_paths())
def test_a_dispatched_order_can_only_complete(path: list[State]) -> None:
    if State.DISPATCHED in path:
        assert path[-1] is State.COMPLETED
