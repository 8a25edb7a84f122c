"""The dashboard's client of the REST API."""

from dataclasses import dataclass
from time import monotonic

import httpx

from orchestrator.errors import ServiceUnavailable
from orchestrator.rest_client import ApiUnavailable, Json, RestClient, error_of
from orchestrator.security.key_hashing import Role

CONNECT_SECONDS = 1.0
READ_SECONDS = 15.0
POLL_SECONDS = 1.0
"""Read timeout of requests that a page repeats at every refresh."""

PAUSE_SECONDS = 5.0
"""How long no such request is sent after one of them has timed out."""


@dataclass
class _CircuitBreaker:
    """Shared by the clients of all viewers."""

    open_until: float = float("-inf")


class OrderApi(RestClient):
    """A REST client with a circuit breaker for the requests of pages that refresh."""

    def __init__(self, url: str) -> None:
        super().__init__(url, name="the API", connect_seconds=CONNECT_SECONDS, read_seconds=READ_SECONDS)
        self._breaker = _CircuitBreaker()

    def start(self, order_id: str, content: Json) -> Json:
        """Start an order. The status is `already_started` when the same order was started before."""
        return self.post(f"/orders/{order_id}/start", content)

    def cancel(self, order_id: str, reason: str, cancelled_by: str) -> Json:
        return self._signal(order_id, "cancel", {"reason": reason, "cancelled_by": cancelled_by})

    def change_address(self, order_id: str, new_address: Json, updated_by: str) -> Json:
        return self._signal(
            order_id, "update-address", {"new_address": new_address, "updated_by": updated_by}
        )

    def approve(self, order_id: str, reviewer: str) -> Json:
        return self._signal(order_id, "approve", {"reviewer": reviewer})

    def reject(self, order_id: str, reviewer: str, reason: str) -> Json:
        return self._signal(order_id, "reject", {"reviewer": reviewer, "reason": reason})

    def _signal(self, order_id: str, signal: str, body: Json) -> Json:
        return self.post(f"/orders/{order_id}/signals/{signal}", body)

    def set_faults(self, profile: str, seed: int) -> Json:
        return self.put("/faults", {"profile": profile, "seed": seed})

    def health(self) -> Json:
        """Return the health report, whether healthy or not."""
        report: Json = self._poll("/health", accepted=(503,)).json()
        return report

    def metrics(self) -> str:
        """Return the API's metrics in the Prometheus text format."""
        return self._poll("/metrics").text

    def role(self) -> Role:
        """Return the role of the API key. Raises NotAllowed when the key is missing or invalid."""
        return Role.of(self._poll("/whoami").json()["role"])

    def _poll(self, path: str, accepted: tuple[int, ...] = ()) -> httpx.Response:
        """Raises ServiceUnavailable, at once while the circuit breaker is open."""
        if monotonic() < self._breaker.open_until:
            raise ServiceUnavailable("The API is not responding; try again shortly.")
        try:
            response = self.send("GET", path, timeout=POLL_SECONDS)
        except ApiUnavailable:
            # A refused connection costs no time: the breaker can stay closed.
            raise
        except ServiceUnavailable:
            self._breaker.open_until = monotonic() + PAUSE_SECONDS
            raise
        if response.is_error and response.status_code not in accepted:
            raise error_of(response)
        return response
