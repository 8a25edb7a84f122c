"""Free ports for the stacks of tests."""

import random
import socket
from contextlib import ExitStack

PORTS_OF_A_STACK = 10

# Below the range of ephemeral ports.
_BASES = range(20_000, 32_000, PORTS_OF_A_STACK)


def free_port_base() -> int:
    """Return a PORT_BASE with ten free ports."""
    for _ in range(100):
        base = random.choice(_BASES)
        if _all_free(base):
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
