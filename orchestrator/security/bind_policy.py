"""No part listens where others can reach it unless there are keys."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from db import api_keys
from orchestrator.errors import ServiceUnavailable, UsageError
from orchestrator.settings import LOOPBACK, Settings


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address. A name counts as reachable, except localhost."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_addressed_to_this_machine(host: str | None) -> bool:
    """Whether the header Host of a request names this machine as only this machine does. A request without
    the header comes from no browser.

    Who needs no key must ask so: a page of another site may have its own name lead here, and would count as
    ours for the browser that shows it.
    """
    if host is None:
        return True
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return is_loopback(name or "")


WRONG_HOST = "without a key this is answered at 127.0.0.1 and localhost alone"


def refuse_without_keys(settings: Settings, part: str, address: str | None = None) -> None:
    """Raises UsageError, with one sentence, when `part` would listen beyond this machine and no API key
    exists, or none can be known to exist. `address` is BIND_ADDRESS by default."""
    address = settings.bind_address if address is None else address
    if is_loopback(address):
        return
    url = settings.database_url or settings.database_reader_url or settings.order_database_url
    try:
        if api_keys.exists(url):
            return
    except ServiceUnavailable:
        raise UsageError(
            f"{part} does not start on {address}: no database answers that knows whether there are API keys"
        ) from None
    before, after = (
        (f"start the stack on {LOOPBACK} and ", ", then start it again")
        if settings.uses_embedded_postgres
        else ("", "")
    )
    raise UsageError(
        f"{part} does not start on {address} without API keys; "
        f"{before}make one: python -m orchestrator keys add NAME --role chaos{after}"
    )
