"""The words of the business: the legal paths of an order, its outcomes and what an order may contain."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.domain import (
    COMPENSATIONS,
    GATEWAY_STEPS,
    MAX_ORDER_LINES,
    MAX_QUANTITY,
    MAX_TEXT_LENGTH,
    MAX_UNIT_PRICE_CENTS,
    SAMPLE_ITEMS,
    TERMINAL_STATES,
    Address,
    Item,
    Reason,
    State,
    Step,
)
from db.orders import DUE_STATE, STATE_AFTER
from orchestrator.messages import ApproveOrder, CancelOrder, OrderRequest, RejectOrder, UpdateAddress
from orchestrator.workflow_ids import order_workflow_id, shipping_workflow_id

ADDRESS = Address("1 Main Street", "Springfield", "IL", "62701")
ORDER = OrderRequest("order-1", ADDRESS, "payment-1", datetime(2030, 1, 1, tzinfo=UTC))


@st.composite
def legal_paths(draw):
    path = [State.RECEIVED]
    while not path[-1].is_terminal:
        path.append(draw(st.sampled_from([state for state in State if path[-1].may_become(state)])))
    return path


@given(legal_paths())
def test_every_legal_path_only_goes_forward(path):
    for earlier, later in itertools.pairwise(path):
        assert later.is_past(earlier)
        assert not earlier.is_past(later)


@given(legal_paths())
def test_every_legal_path_ends_in_exactly_one_outcome(path):
    assert [state for state in path if state.is_terminal] == [path[-1]]


@given(legal_paths())
def test_a_completed_order_has_passed_through_every_state(path):
    if path[-1] is State.COMPLETED:
        assert path == [state for state in State if state not in (State.CANCELLED, State.FAILED)]


@given(legal_paths())
def test_a_dispatched_order_can_only_complete(path):
    if State.DISPATCHED in path:
        assert path[-1] is State.COMPLETED


@pytest.mark.parametrize("state", State)
def test_an_order_can_be_turned_back_until_it_is_dispatched(state):
    can_end_early = state.may_become(State.CANCELLED) and state.may_become(State.FAILED)
    assert can_end_early == (not state.is_terminal and state is not State.DISPATCHED)


@pytest.mark.parametrize("state", TERMINAL_STATES)
def test_nothing_follows_an_outcome(state):
    assert not any(state.may_become(later) for later in State)


@pytest.mark.parametrize("state", State)
def test_no_state_follows_itself(state):
    assert not state.may_become(state)
    assert not state.is_past(state)


@pytest.mark.parametrize("step", DUE_STATE)
def test_each_step_leads_along_the_legal_path(step):
    assert STATE_AFTER[step] is DUE_STATE[step] or DUE_STATE[step].may_become(STATE_AFTER[step])


def test_the_steps_that_call_the_outside_are_those_that_are_due_somewhere_and_the_compensations():
    assert set(GATEWAY_STEPS) == set(DUE_STATE) | set(COMPENSATIONS)
    assert not set(GATEWAY_STEPS) & {Step.REVIEW, Step.FINISH}


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (Reason.CUSTOMER_CANCELLED, State.CANCELLED),
        (Reason.REVIEW_REJECTED, State.CANCELLED),
        (Reason.REVIEW_EXPIRED, State.CANCELLED),
        (Reason.PAYMENT_DECLINED, State.FAILED),
        (Reason.VALIDATION_FAILED, State.FAILED),
        (Reason.DEADLINE, State.FAILED),
        (Reason.SHIPPING_FAILED, State.FAILED),
        (Reason.TERMINATED, State.FAILED),
        (Reason.INTERNAL_ERROR, State.FAILED),
    ],
)
def test_a_reason_decides_the_outcome(reason, outcome):
    assert reason.outcome is outcome


def test_every_reason_is_decided_in_the_table_above():
    decided = test_a_reason_decides_the_outcome.pytestmark[0].args[1]
    assert {reason for reason, _ in decided} == set(Reason)


def test_an_order_without_items_holds_the_sample_item():
    assert ORDER.items == list(SAMPLE_ITEMS)
    assert ORDER.amount_cents == 4_200
    assert ORDER.validation_errors() == []


@given(
    st.lists(
        st.builds(
            Item,
            sku=st.just("SKU-1"),
            quantity=st.integers(1, MAX_QUANTITY),
            unit_price_cents=st.integers(0, MAX_UNIT_PRICE_CENTS),
        ),
        min_size=1,
        max_size=MAX_ORDER_LINES,
    )
)
def test_the_amount_is_the_exact_sum_of_the_lines_in_integer_cents(items):
    order = replace(ORDER, items=items)
    assert order.validation_errors() == []
    assert order.amount_cents == sum(item.quantity * item.unit_price_cents for item in items)
    assert isinstance(order.amount_cents, int)


@pytest.mark.parametrize("order_id", ["a", "A-z_0", "x" * 64, "0", "-", "_"])
def test_an_order_id_is_1_to_64_letters_digits_dashes_and_underscores(order_id):
    assert replace(ORDER, order_id=order_id).validation_errors() == []


@pytest.mark.parametrize("order_id", ["", "x" * 65, "a b", "a/b", "ä", "a\n", "a\x00", "../x", "٣", "a;b"])
def test_any_other_order_id_is_refused(order_id):
    assert any("order_id" in problem for problem in replace(ORDER, order_id=order_id).validation_errors())


@pytest.mark.parametrize("text", ["", "   ", "x" * (MAX_TEXT_LENGTH + 1), "a\x00b", "a\nb", "\x7f", "\ud800"])
@pytest.mark.parametrize("part", ["street", "city", "state", "zip"])
def test_an_address_needs_every_part_as_storable_text(part, text):
    broken = replace(ADDRESS, **{part: text})
    assert [problem for problem in broken.validation_errors() if problem.startswith(part)]
    assert replace(ORDER, initial_address=broken).validation_errors() == broken.validation_errors()
    assert UpdateAddress(broken, "somebody").validation_errors() == broken.validation_errors()


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (Item("", 1, 1), "line 1: sku is empty"),
        (Item("S", 0, 1), "line 1: quantity"),
        (Item("S", -1, 1), "line 1: quantity"),
        (Item("S", MAX_QUANTITY + 1, 1), "line 1: quantity"),
        (Item("S", 1, -1), "line 1: unit_price_cents"),
        (Item("S", 1, MAX_UNIT_PRICE_CENTS + 1), "line 1: unit_price_cents"),
    ],
)
def test_a_bad_line_is_named(item, complaint):
    (problem,) = replace(ORDER, items=[item]).validation_errors()
    assert problem.startswith(complaint)


@pytest.mark.parametrize("count", [0, MAX_ORDER_LINES + 1])
def test_an_order_has_1_to_100_lines(count):
    (problem,) = replace(ORDER, items=[Item("S", 1, 1)] * count).validation_errors()
    assert f"not {count}" in problem


def test_every_problem_is_named_at_once():
    broken = replace(
        ORDER, order_id="!", payment_id="", items=[Item("", 0, -1)], initial_address=Address("", "", "", "")
    )
    assert len(broken.validation_errors()) == 4 + 1 + 1 + 3


@pytest.mark.parametrize(
    "request_",
    [
        CancelOrder("", "me"),
        CancelOrder("why", " "),
        ApproveOrder(""),
        ApproveOrder("\x01"),
        RejectOrder("", "why"),
        RejectOrder("me", ""),
        UpdateAddress(ADDRESS, ""),
    ],
)
def test_a_request_of_a_person_needs_every_word_of_it(request_):
    assert request_.validation_errors()


@pytest.mark.parametrize(
    "request_",
    [CancelOrder("why", "me"), ApproveOrder("me"), RejectOrder("me", "why"), UpdateAddress(ADDRESS, "me")],
)
def test_a_complete_request_has_no_problems(request_):
    assert request_.validation_errors() == []


@given(st.text(max_size=300))
def test_any_text_without_problems_can_be_stored_by_postgresql(text):
    if not Address(text, "c", "s", "z").validation_errors():
        assert "\x00" not in text
        text.encode("utf-8")


def test_workflow_ids_are_those_of_the_contract():
    assert order_workflow_id("7") == "order-7"
    assert shipping_workflow_id("7", 2) == "shipping-7-2"
