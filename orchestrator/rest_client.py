"""Synchronous client of the REST API, for the command line and the dashboard."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Self
from uuid import uuid4

import httpx

from orchestrator import errors
from orchestrator.security import certificates
from orchestrator.security.key_hashing import Role, is_token
from orchestrator.settings.api_url import credentials_problem

Json = dict[str, Any]

CONNECT_SECONDS = 2.0
READ_SECONDS = 30.0
RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0)
"""Delays before the retries of a POST whose response was lost. A killed API restarts within 3 s."""

AUDIT_SECONDS = 900.0
"""How long clients and the reverse proxy wait for the audit of all orders."""


class ApiUnavailable(errors.ServiceUnavailable):
    """The API is not responding. Is the stack running?"""


class ResponseLost(errors.ServiceUnavailable):
    """The connection to the API broke before the response. The API may have carried out the request."""


class CertificateRejected(errors.ServiceUnavailable):
    """The API's certificate is not valid."""


class RestClient:
    """Sends requests to the API and returns their JSON. Safe to share between threads.

    An error response raises the error that the API raised (`error_of`), with the detail of its problem
    document; RequestMalformed has the messages of the fields. Raises ApiUnavailable when no connection is
    possible, CertificateRejected, ResponseLost, ServiceUnavailable when the response does not come in time,
    and UsageError for an address or an API key that cannot be used. `name` stands for the API in messages.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        name: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        require_no_credentials(url)
        self._url = url
        self._name = name or f"the API at {url}"
        self._headers = auth_headers(api_key)
        self._connect_seconds = connect_seconds
        with self._errors():
            self._http = httpx.Client(
                base_url=url,
                timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
                # A proxy in HTTP_PROXY leads to the internet, and the API is in the local network.
                trust_env=False,
                verify=certificates.client_context(url),
            )

    def with_key(self, api_key: str | None) -> Self:
        """Return a client with another API key that shares this client's connections."""
        other = copy(self)
        other._headers = auth_headers(api_key)
        return other

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, path: str, **query: object) -> Json:
        return self._json("GET", path, params=_without_none(query))

    def post(self, path: str, body: Json) -> Json:
        """Send a POST with a new idempotency key, and retry it while its response is lost."""
        headers = {"Idempotency-Key": uuid4().hex}
        pauses = iter(RETRY_PAUSES_SECONDS)
        was_sent = False
        while True:
            try:
                return self._json("POST", path, json=body, headers=headers)
            except (ResponseLost, ApiUnavailable) as error:
                was_sent = was_sent or isinstance(error, ResponseLost)
                pause = next(pauses, None)
                if not was_sent or pause is None:
                    raise
                time.sleep(pause)

    def put(self, path: str, body: Json) -> Json:
        return self._json("PUT", path, json=body)

    def patch(self, path: str, body: Json) -> Json:
        return self._json("PATCH", path, json=body)

    def delete(self, path: str) -> Json:
        return self._json("DELETE", path)

    def audit(self, run_id: str | None) -> Json:
        """Return the audit report of one run, or of all orders. Takes up to minutes."""
        return self._json("GET", "/audit", params=_without_none({"run_id": run_id}), timeout=AUDIT_SECONDS)

    def role(self) -> Role:
        """Return the role of the API key. Raises NotAllowed when the key is missing or invalid."""
        return Role.of(self.get("/whoami")["role"])

    @contextmanager
    def stream(self, path: str, **query: object) -> Iterator[httpx.Response]:
        """Yield a response whose body is read in pieces, with no limit on the time between them."""
        timeout = httpx.Timeout(None, connect=self._connect_seconds)
        with (
            self._errors(),
            self._http.stream(
                "GET", path, params=_without_none(query), headers=self._headers, timeout=timeout
            ) as response,
        ):
            if response.is_error:
                response.read()
                raise error_of(response)
            yield response

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request with options of httpx and return the response, with any status code."""
        headers = self._headers | options.pop("headers", {})
        with self._errors():
            return self._http.request(method, path, headers=headers, **options)

    def _json(self, method: str, path: str, **options: Any) -> Json:
        response = self.send(method, path, **options)
        if response.is_error:
            raise error_of(response)
        content: Json = response.json()
        return content

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise errors.UsageError(f"{self._url} is not the address of an API") from error
        except httpx.ConnectError as error:
            problem = certificates.rejection(error)
            if problem is not None:
                raise CertificateRejected(
                    f"the certificate of {self._name} is rejected: {problem}"
                ) from error
            raise ApiUnavailable(f"no connection to {self._name}: start the stack with `make up`") from error
        except httpx.LocalProtocolError as error:
            # The error's message can quote a header, and a header contains the key.
            raise errors.UsageError("the request has a header that HTTP does not allow") from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            reason = str(error) or type(error).__name__
            raise ResponseLost(f"{self._name} closed the connection without a response: {reason}") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise errors.ServiceUnavailable(f"{self._name} is not responding: {reason}") from error


def require_no_credentials(url: str) -> None:
    """Raises UsageError for a URL with a user or a password, which messages would print."""
    if (problem := credentials_problem(url)) is not None:
        raise errors.UsageError(problem)


def auth_headers(api_key: str | None) -> dict[str, str]:
    """Return the Authorization header of a key. Raises UsageError for text that cannot be a key."""
    if api_key is None:
        return {}
    if not is_token(api_key):
        raise errors.UsageError("API_KEY is not a valid API key")
    return {"Authorization": f"Bearer {api_key}"}


_ERRORS: dict[int, type[errors.OrderSystemError]] = {
    401: errors.NotAllowed,
    403: errors.NotAllowed,
    404: errors.OrderUnknown,
}


def error_of(response: httpx.Response) -> errors.OrderSystemError:
    """Return the error that stands for an error response, with the detail of its problem document."""
    status = response.status_code
    try:
        problem = response.json()
        detail, type_ = str(problem["detail"]), problem.get("type")
        fields = {each["field"]: each["message"] for each in problem.get("errors") or ()}
    except (ValueError, KeyError, TypeError):
        detail = f"The API returned HTTP status {status} without an explanation."
        type_, fields = None, {}
    if status in (413, 422):
        return errors.RequestMalformed(detail, fields)
    if status == 429:
        # The API sends whole seconds; a proxy may send a date.
        retry_after = response.headers.get("Retry-After", "")
        return errors.Overloaded(detail, int(retry_after) if retry_after.isdecimal() else 1)
    default = errors.ServiceUnavailable if status >= 500 else errors.RequestRejected
    return errors.PROBLEM_TYPES.get(type_, _ERRORS.get(status, default))(detail)


def _without_none(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}
