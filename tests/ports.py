"""Free ports for the stacks of tests."""

import os
import random
import socket
from contextlib import ExitStack

PORTS_OF_A_STACK = 10

_drawn: set[int] = set()
"""What this process has drawn, and may not have bound yet."""

# Below the range of ephemeral ports, which any connection can take.
_BASES = range(20_000, 32_000, PORTS_OF_A_STACK)


def free_port_base() -> int:
    """Return a PORT_BASE with ten free ports. Parallel workers of pytest-xdist draw from disjoint ports."""
    # Set by pytest-xdist: gw0, gw1...
    worker_index = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    worker_count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for _ in range(100):
        base = random.choice(_BASES[worker_index::worker_count])
        if base not in _drawn and _all_free(base):
            _drawn.add(base)
            return base
    raise RuntimeError("no ten consecutive free ports found")


def _all_free(base: int) -> bool:
    with ExitStack() as sockets:
        for port in range(base, base + PORTS_OF_A_STACK):
            probe = sockets.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
