"""docs/reference/gateway-protocol.openapi.json is the OpenAPI document of the gateway server."""

import json

from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.gateways.server import create_app

REFERENCE = PROJECT_ROOT / "docs" / "reference"
WRITE = "curl http://127.0.0.1:8700/openapi.json | python -m json.tool --indent 2"


def test_the_document_is_that_of_the_server() -> None:
    text = (REFERENCE / "gateway-protocol.openapi.json").read_text()
    assert json.loads(text) == create_app("").openapi(), f"write it again: {WRITE}"


def test_the_page_lists_every_call() -> None:
    page = (REFERENCE / "gateway-protocol.md").read_text()
    for path, methods in create_app("").openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in page
