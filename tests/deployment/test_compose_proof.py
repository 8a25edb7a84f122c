"""The parts of `make compose-proof` that need no engine."""

import json
import os
import socket
from unittest.mock import Mock

import pytest

from tests.compose import checks
from tests.compose.engine import ProofError
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


def test_a_load_test_that_does_not_pass_shows_the_rows_of_its_verdict() -> None:
    shown = {"verdict": {"exit_code": 5, "verdict": "not proven"}, "results": {"limit": "14 late of 30"}}
    project = Mock(settings={"API_KEY": "key"})
    project.engine.on_host.return_value = json.dumps(shown)
    with pytest.raises(ProofError, match=r"not proven\.\nlimit: 14 late of 30$"):
        checks.load_test(project)
