"""The dashboard's client of the REST API."""

from orchestrator.rest_client import Json, RestClient, error_of

CONNECT_SECONDS = 1.0
READ_SECONDS = 15.0
SHORT_SECONDS = 1.0
"""Timeout of requests that a page makes while it is drawn."""


class OrderApi(RestClient):
    def __init__(self, url: str) -> None:
        super().__init__(url, name="the API", connect_seconds=CONNECT_SECONDS, read_seconds=READ_SECONDS)

    def start(self, order_id: str, content: Json) -> Json:
        """Start an order. The status is `already_started` when the same order was started before."""
        return self.post(f"/orders/{order_id}/start", content)

    def cancel(self, order_id: str, reason: str, cancelled_by: str) -> Json:
        return self._signal(order_id, "cancel", cancelled_by=cancelled_by, reason=reason)

    def change_address(self, order_id: str, new_address: Json, updated_by: str, address_version: int) -> Json:
        """Change the address if it still has this version."""
        content = {"new_address": new_address, "address_version": address_version}
        return self._signal(order_id, "update-address", updated_by=updated_by, **content)

    def approve(self, order_id: str, reviewer: str) -> Json:
        return self._signal(order_id, "approve", reviewer=reviewer)

    def reject(self, order_id: str, reviewer: str, reason: str) -> Json:
        return self._signal(order_id, "reject", reviewer=reviewer, reason=reason)

    def _signal(self, order_id: str, signal: str, **content: object) -> Json:
        return self.post(f"/orders/{order_id}/signals/{signal}", content)

    def change_run(self, run_id: str, changes: Json) -> Json:
        return self.patch(f"/runs/{run_id}", changes)

    def delete_run(self, run_id: str) -> None:
        """Delete a stored load test. Its orders stay."""
        self.delete(f"/runs/{run_id}")

    def faults_unavailable(self) -> str | None:
        """Return why faults cannot be injected, or None."""
        response = self.send("GET", "/faults", timeout=SHORT_SECONDS)
        if response.is_error:
            raise error_of(response)
        problem: str | None = response.json()["unavailable"]
        return problem

    def set_faults(self, profile: str, seed: int, rates: Json | None = None) -> Json:
        """Apply a profile; `rates` are those of the profile `custom`."""
        return self.put("/faults", {"profile": profile, "seed": seed} | ({"rates": rates} if rates else {}))

    def health(self) -> Json:
        """Return the health report. HTTP status 503 is also a report: a component is unhealthy."""
        response = self.send("GET", "/health", timeout=SHORT_SECONDS)
        if response.is_error and response.status_code != 503:
            raise error_of(response)
        report: Json = response.json()
        return report
