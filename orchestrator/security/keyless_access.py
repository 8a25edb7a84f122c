"""Recognizes requests of this machine, which need no API key while none exists.

A reverse proxy on this machine connects from a loopback address too, so that address alone proves nothing.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import Scope

from orchestrator.security.bind_policy import is_loopback, loopback_host_port

LOOPBACK_ONLY = "Without an API key this page is only available at 127.0.0.1 or localhost."
FORWARDED = (
    "An API key is required: the request came through a proxy or from another user. "
    "Create a key: orders keys add NAME --role ROLE"
)

HTTP_PORT = 80

_PROXY_HEADERS = (
    "cdn-loop",
    "cf-",
    "client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-proxyuser-ip",
    "x-real-ip",
)
"""Prefixes of the headers that reverse proxies add."""

_PROXY_PROGRAMS = ("apache2", "caddy", "envoy", "haproxy", "httpd", "lighttpd", "nginx", "squid", "traefik")
"""Process names of common reverse proxies. A proxy that listens only on loopback can be behind another
proxy."""


def refusal(
    header_names: Iterable[str], host: str | None, client: str | None, port: int | None, protocol: str
) -> str | None:
    """Return why a request without a key is not a direct request of this machine, or None if it is one.

    `port` is the port that received the request (None: unknown). nginx before 1.29.7 sends HTTP/1.0 by
    default; no current client does.
    """
    is_local, host_port = loopback_host_port(host)
    if not is_local:
        return LOOPBACK_ONLY
    has_proxy_header = any(name.lower().startswith(_PROXY_HEADERS) for name in header_names)
    is_other_port = port is not None and (host_port or HTTP_PORT) != port
    if has_proxy_header or is_other_port or protocol == "1.0" or not is_loopback(client or ""):
        return FORWARDED
    return None


def request_refusal(scope: Scope) -> str | None:
    """`refusal` of an ASGI request."""
    headers = Headers(scope=scope)
    client, server = scope.get("client"), scope.get("server")
    return refusal(
        headers.keys(),
        headers.get("host"),
        client[0] if client else None,
        server[1] if server else None,
        scope.get("http_version", "1.1"),
    )


def comes_from_proxy(client_port: int, port: int) -> bool:
    """Return whether the process at the other end of a loopback connection can forward requests of others.

    It can if it belongs to another user, is a common reverse proxy, or listens beyond loopback. Only this
    check recognizes a proxy that adds no header. False where the system does not show the sockets of
    processes (macOS), and for a process of this user that hides them (the sandbox of a browser). Took 55 ms
    of CPU on a machine with 344 processes.
    """
    # Imported here: few requests need it.
    import psutil

    if _socket_owner(client_port, port) not in (None, os.geteuid()):
        return True
    try:
        pids = (
            each.pid
            for each in psutil.net_connections("tcp")
            if each.pid
            and each.laddr
            and each.raddr
            and (each.laddr.port, each.raddr.port) == (client_port, port)
        )
        if (pid := next(pids, None)) is None:
            return False
        process, parent = psutil.Process(pid), psutil.Process(pid).parent()
        # A server that starts a process for each connection listens in the parent.
        servers = [process] + ([parent] if parent and parent.name() == process.name() else [])
        return process.name() in _PROXY_PROGRAMS or any(
            each.laddr and each.status == psutil.CONN_LISTEN and not is_loopback(each.laddr.ip)
            for server in servers
            for each in server.net_connections("tcp")
        )
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _socket_owner(local_port: int, remote_port: int) -> int | None:
    """Return the user id of a TCP socket, from the tables of Linux; None if they do not have it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table, encoding="ascii") as rows:
            next(rows)
            for row in rows:
                columns = row.split()
                ports = [int(address.rpartition(":")[2], 16) for address in columns[1:3]]
                if ports == [local_port, remote_port]:
                    return int(columns[7])
    return None


def connection_comes_from_proxy(scope: Scope) -> bool:
    """`comes_from_proxy` of an ASGI request."""
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not server[1]:
        return False
    return comes_from_proxy(client[1], server[1])
