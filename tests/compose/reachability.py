"""Listening ports, and ports that accept a connection. Runs in the network of each container."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LISTENING = "0A"
TIMEOUT_SECONDS = 1.0


def listening_ports(pid: int) -> list[int]:
    """Return the TCP ports on which the process's network accepts connections of other machines."""
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, _, port = address.rpartition(":")
            # 127.0.0.0/8 in the byte order of the kernel; Docker's DNS server is at 127.0.0.11.
            is_loopback = host.endswith("7F") if table == "tcp" else host == "0" * 24 + "01000000"
            if state == LISTENING and not is_loopback:
                ports.add(int(port, 16))
    return sorted(ports)


def reachable(targets: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the addresses and ports that accept a connection from this process's network."""
    with ThreadPoolExecutor(32) as pool:
        return [
            target for target, accepted in zip(targets, pool.map(_accepts, targets), strict=True) if accepted
        ]


def _accepts(target: tuple[str, int]) -> bool:
    try:
        socket.create_connection(target, TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(reachable([(host, port) for host, port in json.loads(sys.argv[1])])))  # noqa: T201
