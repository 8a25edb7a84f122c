"""The CLI's side of the REST API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer

from orchestrator.errors import (
    NotAllowed,
    OrderConflict,
    OrderSystemError,
    OrderUnknown,
    Overloaded,
    RequestRejected,
    ServiceUnavailable,
    UsageError,
)
from orchestrator.settings import Settings

Json = dict[str, Any]

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 30.0

ApiUrl = Annotated[
    str | None,
    typer.Option("--api-url", metavar="URL", help="The REST API; by default that of the settings."),
]


class ApiUnavailable(ServiceUnavailable):
    """The API does not answer."""


class ApiClient:
    """Raises a RequestRejected or ServiceUnavailable with the problem's own sentence, UsageError for a malformed
    request, and ApiUnavailable when there is no API."""

    def __init__(self, api_url: str | None) -> None:
        settings = Settings.load()
        self._url = api_url or settings.api_url
        key = settings.api_key_text
        # Proxies are for the internet; the API is next door.
        self._http = httpx.Client(
            base_url=self._url,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            trust_env=False,
        )

    def __enter__(self) -> "ApiClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Json:
        return self._json(
            "GET", path, params={name: value for name, value in query.items() if value is not None}
        )

    def post(self, path: str, body: Json) -> Json:
        return self._json("POST", path, json=body)

    def put(self, path: str, body: Json) -> Json:
        return self._json("PUT", path, json=body)

    @contextmanager
    def stream(self, path: str, **query: object) -> Iterator[httpx.Response]:
        """An answer that is read bit by bit, however long it takes between them."""
        params = {name: value for name, value in query.items() if value is not None}
        with self._errors():
            patient = httpx.Timeout(None, connect=CONNECT_SECONDS)
            with self._http.stream("GET", path, params=params, timeout=patient) as answer:  # type: ignore[arg-type]
                if answer.is_error:
                    answer.read()
                    raise refusal(answer)
                yield answer

    def _json(self, method: str, path: str, **options: Any) -> Json:
        with self._errors():
            answer = self._http.request(method, path, **options)
        if answer.is_error:
            raise refusal(answer)
        content: Json = answer.json()
        return content

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise UsageError(f"{self._url} is not the address of an API") from error
        except httpx.ConnectError as error:
            raise ApiUnavailable(f"no API at {self._url}: start the stack with `make up`") from error
        except httpx.TransportError as error:
            raise ApiUnavailable(
                f"the API at {self._url} does not answer: {error or type(error).__name__}"
            ) from error


def refusal(answer: httpx.Response) -> OrderSystemError:
    """The error that a problem document stands for."""
    try:
        problem = answer.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return OrderSystemError(f"{answer.url} answered {answer.status_code}, and no problem document")
    kinds: dict[int, type[OrderSystemError]] = {
        401: NotAllowed, 403: NotAllowed, 404: OrderUnknown, 409: OrderConflict, 413: UsageError,
        422: UsageError, 429: Overloaded, 503: ServiceUnavailable,
    }  # fmt: skip
    return kinds.get(answer.status_code, RequestRejected)(detail)
