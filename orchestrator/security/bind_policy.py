"""Components listen beyond the loopback interface only when API keys exist."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from db import api_keys
from orchestrator.errors import UsageError
from orchestrator.settings import LOOPBACK, Settings


def is_loopback(address: str) -> bool:
    """Return whether this is a loopback address or `localhost`. False for any other name."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def loopback_host_port(host: str | None) -> tuple[bool, int | None]:
    """Return whether a Host header has a loopback name, and its port (None without one).

    Protects keyless access against DNS rebinding: another site's name can resolve to 127.0.0.1.
    """
    try:
        parts = urlsplit(f"//{host or ''}")
        return is_loopback(parts.hostname or ""), parts.port
    except ValueError:
        return False, None


def require_api_keys(settings: Settings, component: str, address: str | None = None) -> None:
    """Raise UsageError if `component` would listen beyond loopback while no API key exists.

    `address` is BIND_ADDRESS by default. Raises DatabaseError if the database is unavailable.
    """
    address = settings.bind_address if address is None else address
    if is_loopback(address):
        return
    if api_keys.exists(settings.database_url or settings.database_reader_url or settings.order_database_url):
        return
    before, after = (
        (f"start the stack on {LOOPBACK} and ", ", then start it again")
        if settings.uses_embedded_postgres
        else ("", "")
    )
    raise UsageError(
        f"{component} cannot listen on {address} without API keys; "
        f"{before}create one: python -m orchestrator keys add NAME --role chaos{after}"
    )
