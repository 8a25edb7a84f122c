"""What the order system does where a provider lacks a guarantee: the table in docs/reference/gateways.md."""

from datetime import timedelta

from db.orders import StartedAttempt
from orchestrator.errors import GatewayDeclined, GatewayError
from orchestrator.gateways.protocols import Carrier, Guarantees


def require_repeatable(guarantees: Guarantees, attempt: StartedAttempt) -> None:
    """Raise GatewayDeclined for a repeated call without an idempotency key: the first call may have taken
    effect."""
    if attempt.number > 1 and not guarantees.idempotency_key:
        raise GatewayDeclined(
            "the result of the first call is unknown, and the provider has no idempotency key"
        )


def require_settled(guarantees: Guarantees, attempt: StartedAttempt) -> None:
    """Raise GatewayError while a call from before the abort can still take effect at a provider that cannot
    void it. The order database permits no call after the abort."""
    if guarantees.void or attempt.since_abort is None:
        return
    left = timedelta(seconds=guarantees.in_flight_seconds) - attempt.since_abort
    if left > timedelta(0):
        raise GatewayError(
            f"a call can still take effect for {left.total_seconds():.1f} s, and the provider cannot void it"
        )


async def dispatch_parcel(carrier: Carrier, attempt: StartedAttempt) -> str:
    """Dispatch the parcel to the current address. Without replaceable labels, each version of the address is
    a shipment, and the earlier ones are recalled first."""
    *earlier, current = shipment_keys(carrier, attempt.order_id, attempt.address_version)
    for key in earlier:
        await carrier.cancel_shipment(key, attempt.order_id)
    return await carrier.dispatch(current, attempt.order_id, attempt.address, attempt.address_version)


def shipment_keys(carrier: Carrier, order_id: str, address_version: int) -> list[str]:
    """Return the keys of an order's shipments, the current one last."""
    if carrier.guarantees.replaceable_label:
        return [order_id]
    return [f"{order_id}-label-{version}" for version in range(1, address_version + 1)]
