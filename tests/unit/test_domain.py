"""Reasons and outcomes, and the validation of orders and requests."""

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.domain import (
    MAX_ORDER_LINES,
    MAX_QUANTITY,
    MAX_TEXT_LENGTH,
    MAX_UNIT_PRICE_CENTS,
    SAMPLE_ITEMS,
    Address,
    Item,
    Reason,
    State,
)
from orchestrator.messages.ids import order_workflow_id, shipping_workflow_id
from orchestrator.messages.orders import OrderRequest
from orchestrator.messages.requests import ApproveOrder, CancelOrder, RejectOrder, UpdateAddress

ADDRESS = Address("1 Main Street", "Springfield", "IL", "62701")
ORDER = OrderRequest("order-1", ADDRESS, "payment-1", datetime(2030, 1, 1, tzinfo=UTC))


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
def test_each_reason_has_its_outcome(reason, outcome):
    assert reason.outcome is outcome


def test_the_table_above_has_every_reason():
    table = test_each_reason_has_its_outcome.pytestmark[0].args[1]
    assert {reason for reason, _ in table} == set(Reason)


def test_an_order_without_items_has_the_sample_item():
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
def test_any_other_order_id_is_rejected(order_id):
    assert any("order_id" in problem for problem in replace(ORDER, order_id=order_id).validation_errors())


@pytest.mark.parametrize(
    "text", ["", "   ", "x" * (MAX_TEXT_LENGTH + 1), "a\x00b", "a\nb", "\x7f", "\x85", "\u2028", "\ud800"]
)
@pytest.mark.parametrize("part", ["street", "city", "state", "zip"])
def test_an_address_needs_every_part_as_storable_text(part, text):
    broken = replace(ADDRESS, **{part: text})
    assert [problem for problem in broken.validation_errors() if problem.startswith(f"{part} ")]
    assert replace(ORDER, initial_address=broken).validation_errors() == broken.validation_errors()
    assert UpdateAddress(broken, "me").validation_errors() == broken.validation_errors()


@pytest.mark.parametrize(
    "address",
    [
        Address("1 Raffles Place", "Singapore", zip="048616", country="SG"),
        Address("Flat 5, 8 Queen's Road", "Hong Kong", country="HK"),
        Address("Unit 2", "London", zip="SW1A 1AA", street2="10 Downing Street", country="GB"),
        Address("千代田1-1", "東京", "東京都", "100-0001", country="JP"),
        Address("شارع 5", "دبي", country="ae"),
    ],
)
def test_addresses_of_all_countries_are_valid(address):
    assert address.validation_errors() == []


def test_an_address_is_equal_in_every_unicode_normalization():
    composed, decomposed = "Zürich, Rämistraße", unicodedata.normalize("NFD", "Zürich, Rämistraße")
    assert composed != decomposed
    orders = [
        replace(ORDER, initial_address=Address("1", text, country="CH")) for text in (composed, decomposed)
    ]
    assert orders[0].initial_address == orders[1].initial_address
    assert orders[0].fingerprint == orders[1].fingerprint


@pytest.mark.parametrize("country", ["", "XX", "UK", "USA", "U\n", "ä"])
def test_an_unknown_country_is_named(country):
    (message,) = Address("1", "c", country=country).validation_errors()
    assert message.startswith("country must be a two-letter code of ISO 3166")


def test_a_stored_address_without_the_new_fields_is_readable():
    stored = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}
    assert Address(**stored) == ADDRESS
    assert ADDRESS.to_json() == stored
    foreign = Address("1", "c", street2="Flat 2", country="SG")
    assert Address(**foreign.to_json()) == foreign


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (Item("", 1, 1), "line 1: sku is empty"),
        (Item("S", 0, 1), "line 1: quantity"),
        (Item("S", -1, 1), "line 1: quantity"),
        (Item("S", MAX_QUANTITY + 1, 1), "line 1: quantity"),
        # JSON numbers of other Temporal clients.
        *((Item("S", number, 1), "line 1: quantity") for number in (1.5, True, 1e30, float("nan"))),
        *((Item("S", 1, number), "line 1: unit_price") for number in (0.5, True, 1e30, float("nan"))),
        (Item("S", 1, -1), "line 1: unit_price_cents"),
        (Item("S", 1, MAX_UNIT_PRICE_CENTS + 1), "line 1: unit_price_cents"),
    ],
)
def test_an_invalid_line_is_named(item, error):
    (message,) = replace(ORDER, items=[item]).validation_errors()
    assert message.startswith(error)


@pytest.mark.parametrize("count", [0, MAX_ORDER_LINES + 1])
def test_an_order_has_1_to_100_lines(count):
    (message,) = replace(ORDER, items=[Item("S", 1, 1)] * count).validation_errors()
    assert f"not {count}" in message


def test_all_errors_are_reported_together():
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
def test_every_field_of_a_request_is_required(request_):
    assert request_.validation_errors()


@pytest.mark.parametrize(
    "request_",
    [CancelOrder("why", "me"), ApproveOrder("me"), RejectOrder("me", "why"), UpdateAddress(ADDRESS, "me")],
)
def test_a_complete_request_is_valid(request_):
    assert request_.validation_errors() == []


@given(st.text(max_size=300))
def test_a_valid_text_can_be_stored_in_postgresql(text):
    if not Address(text, "c", "s", "z").validation_errors():
        assert "\x00" not in text
        text.encode("utf-8")


def test_workflow_ids_are_those_of_the_contract():
    assert order_workflow_id("7") == "order-7"
    assert shipping_workflow_id("7", 2) == "shipping-7-2"
