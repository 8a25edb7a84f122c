"""The parts of `make compose-proof` that need no engine."""

import os
import socket

from tests.compose.reachability import listening_ports, reachable


def test_only_ports_of_other_addresses_than_the_loopback_are_listed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as private, socket.create_server(("0.0.0.0", 0)) as public:
        ports = listening_ports(os.getpid())
        assert public.getsockname()[1] in ports
        assert private.getsockname()[1] not in ports


def test_only_ports_that_accept_connections_are_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert reachable([server.getsockname(), closed.getsockname()]) == [server.getsockname()]
