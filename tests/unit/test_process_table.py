"""Processes that hold a port."""

import os
import socket

import psutil
import pytest

from orchestrator.embedded.process_table import listening_process


def test_a_killed_process_that_still_holds_its_port_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert listening_process(port).startswith(f"process {os.getpid()} (")
        # As of a process whose memory the kernel has released.
        monkeypatch.setattr(psutil.Process, "cmdline", lambda _: [])
        assert listening_process(port) == ""
