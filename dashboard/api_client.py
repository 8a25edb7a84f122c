"""The dashboard's side of the REST API: every order that it gives goes through here."""

from copy import copy
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx

from orchestrator.errors import (
    NotAllowed,
    OrderConflict,
    OrderUnknown,
    Overloaded,
    RequestMalformed,
    RequestRejected,
    ServiceUnavailable,
    TooLate,
)
from orchestrator.security.key_hashing import Role

Json = dict[str, Any]

_SILENT = "The API did not answer in time; try again shortly."

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 15.0
AUDIT_SECONDS = 900.0
GLANCE_SECONDS = 1.0
"""How long a page that refreshes waits for what it shows besides its own figures."""

SILENCE_SECONDS = 5.0
"""How long an API that has let a glance wait in vain is not glanced at again."""


class ApiUnavailable(ServiceUnavailable):
    """The API does not answer; is the stack up? Try again shortly."""


@dataclass
class _Silence:
    """Until when the API is taken for silent. Shared by all who ask it, with whatever key."""

    until: float = float("-inf")


class OrderApi:
    """Raises a RequestRejected with the API's own sentence, or ServiceUnavailable when a part does not answer.

    Safe to share between threads.
    """

    def __init__(self, url: str) -> None:
        # Proxies are for the internet; the API is next door.
        self._key: str | None = None
        self._silence = _Silence()
        self._http = httpx.Client(
            base_url=url, timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS), trust_env=False
        )

    def with_key(self, key: str | None) -> "OrderApi":
        """The same API over the same connections, asked with this key (None: without one)."""
        other = copy(self)
        other._key = key
        return other

    def close(self) -> None:
        self._http.close()

    def start(self, order_id: str, content: Json) -> Json:
        """Starts an order; `status` is started, or already_started for the very same order again."""
        return self._json("POST", f"/orders/{order_id}/start", json=content)

    def cancel(self, order_id: str, reason: str, cancelled_by: str) -> Json:
        return self._ask(order_id, "cancel", {"reason": reason, "cancelled_by": cancelled_by})

    def change_address(self, order_id: str, new_address: Json, updated_by: str) -> Json:
        return self._ask(order_id, "update-address", {"new_address": new_address, "updated_by": updated_by})

    def approve(self, order_id: str, reviewer: str) -> Json:
        return self._ask(order_id, "approve", {"reviewer": reviewer})

    def reject(self, order_id: str, reviewer: str, reason: str) -> Json:
        return self._ask(order_id, "reject", {"reviewer": reviewer, "reason": reason})

    def health(self) -> Json:
        """The health report, also when it says that something is not well."""
        answer = self._glance("/health")
        if answer.status_code not in (httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE):
            raise _refusal(answer)
        report: Json = answer.json()
        return report

    def set_faults(self, profile: str, seed: int) -> Json:
        return self._json("PUT", "/faults", json={"profile": profile, "seed": seed})

    def audit(self, run_id: str | None) -> Json:
        """Audits one run, or everything, which may take minutes."""
        query = {"run_id": run_id} if run_id else {}
        return self._json("GET", "/audit", params=query, timeout=AUDIT_SECONDS)

    def metrics(self) -> str:
        """Prometheus text."""
        answer = self._glance("/metrics")
        if answer.is_error:
            raise _refusal(answer)
        return answer.text

    def role(self) -> Role:
        """What the key is good for; everything while none is needed."""
        answer = self._glance("/whoami")
        if answer.is_error:
            raise _refusal(answer)
        return Role.of(answer.json()["role"])

    def _ask(self, order_id: str, signal: str, body: Json) -> Json:
        return self._json("POST", f"/orders/{order_id}/signals/{signal}", json=body)

    def _json(self, method: str, path: str, **options: Any) -> Json:
        answer = self._send(method, path, **options)
        if answer.is_error:
            raise _refusal(answer)
        content: Json = answer.json()
        return content

    def _glance(self, path: str) -> httpx.Response:
        """Asks for what nobody waits for long. Raises ServiceUnavailable, at once while the API is silent."""
        if monotonic() < self._silence.until:
            raise ServiceUnavailable(_SILENT)
        try:
            return self._send("GET", path, timeout=GLANCE_SECONDS)
        except ApiUnavailable:
            # Nobody is there, which takes no time to find out.
            raise
        except ServiceUnavailable:
            self._silence.until = monotonic() + SILENCE_SECONDS
            raise

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
            return self._http.request(method, path, headers=headers, **options)
        except httpx.ConnectError as error:
            raise ApiUnavailable from error
        except httpx.TransportError as error:
            raise ServiceUnavailable(_SILENT) from error


def _refusal(answer: httpx.Response) -> RequestRejected | ServiceUnavailable:
    """The problem document as one of our errors, with its sentence."""
    try:
        sentence = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        sentence = f"The API answered {answer.status_code}."
    if answer.is_server_error:
        return ServiceUnavailable(sentence)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return OrderUnknown(sentence)
    if answer.status_code == httpx.codes.CONFLICT:
        return TooLate(sentence) if "/signals/" in answer.request.url.path else OrderConflict(sentence)
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return NotAllowed(sentence)
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return Overloaded(sentence)
    return RequestMalformed(sentence)
