"""The connection of a command to the REST API."""

from typing import Annotated

import typer

from orchestrator.rest_client import RestClient
from orchestrator.settings import Settings

ApiUrl = Annotated[
    str | None,
    typer.Option("--api-url", metavar="URL", help="URL of the REST API; API_URL by default."),
]


def connect(api_url: str | None) -> RestClient:
    settings = Settings.load()
    return RestClient(api_url or settings.api_url, settings.api_key_text)
