"""Errors of a rejected request beside the fields of a form."""

from dashboard.view_models.field_errors import FORM, field_errors, text_field_errors
from orchestrator.errors import RequestMalformed, ServiceUnavailable

FIELDS = ("street", "state", "zip", "country", "reason", "items")


def test_each_message_belongs_to_its_field():
    error = RequestMalformed(
        "",
        {
            "body.initial_address.street": "street is empty",
            "body.reason": "reason is empty",
            "body.items.0.sku": "sku is empty",
            "body.items.2.quantity": "Input should be greater than or equal to 1",
            "body.run_id": "must be 1 to 64 letters",
        },
    )
    assert field_errors(error, FIELDS) == {
        "street": "Street is empty.",
        "reason": "Reason is empty.",
        "items": "Line 1: sku is empty; line 3: Input should be greater than or equal to 1.",
        FORM: "Must be 1 to 64 letters.",
    }


def test_an_error_without_fields_belongs_to_the_form():
    assert field_errors(ServiceUnavailable("no connection"), FIELDS) == {FORM: "No connection."}
    assert field_errors(RequestMalformed("the body is not valid JSON"), FIELDS) == {
        FORM: "The body is not valid JSON."
    }


def test_texts_are_checked_as_the_api_checks_them():
    assert text_field_errors({"reason": "sold out", "cancelled_by": " "}) == {
        "cancelled_by": "Cancelled by is empty."
    }
