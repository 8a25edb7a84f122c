"""Problem documents and the routes of orders, for the tests of the REST API."""

from dataclasses import asdict

import httpx

from orchestrator.api.schemas import responses
from tests.live import body
from tests.orders import OTHER_ADDRESS

ORDER_ROUTES = [
    ("GET", "status", None),
    ("GET", "history", None),
    ("POST", "start", body()),
    ("POST", "signals/cancel", {"reason": "r", "cancelled_by": "c"}),
    ("POST", "signals/update-address", {"new_address": asdict(OTHER_ADDRESS), "updated_by": "c"}),
    ("POST", "signals/approve", {"reviewer": "r"}),
    ("POST", "signals/reject", {"reviewer": "r", "reason": "r"}),
]


def is_problem(response: httpx.Response, status: int) -> bool:
    """Return whether this is a problem document with this status; fails if it contains internal details."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = responses.Problem.model_validate(response.json())
    for internal_word in ("Traceback", "psycopg", "select ", "postgresql://", "temporalio", "File "):
        assert internal_word not in response.text
    return problem.status == status and bool(problem.detail)
