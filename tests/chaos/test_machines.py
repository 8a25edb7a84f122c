"""Network cuts: the network of the test machines, and a worker without network.

Collected only where network namespaces can be created (see conftest.py). `make machines` cuts the network of
every component.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import psutil
import pytest

from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.embedded.process_table import wait_until_ended

IN_A_NETWORK = ("unshare", "--net", sys.executable)

ECHO_PROGRAM = """
import socket, sys
from pathlib import Path
from tests.chaos.network import Network

ECHO = '''
import socket
listener = socket.create_server(("", 7))
print("listening", flush=True)
connection = listener.accept()[0]
while data := connection.recv(1):
    connection.sendall(data)
'''

def responds(connection):
    connection.sendall(b"?")
    try:
        return connection.recv(1) == b"?"
    except TimeoutError:
        return False

with Network() as network:
    network.add_own_namespace("here")
    there = network.add("there")
    log = Path(sys.argv[1])
    echo = there.start([sys.executable, "-c", ECHO], log=log, directory=Path.cwd())
    while "listening" not in log.read_text():
        assert echo.poll() is None, log.read_text()
    connection = socket.create_connection((there.address, 7), timeout=1)
    print("connected", responds(connection), flush=True)
    network.cut(there)
    print("cut", responds(connection), flush=True)
    network.heal(there)
    connection.settimeout(20)
    # TCP retransmits the lost packets.
    print("healed", connection.recv(1) == b"?" and responds(connection), flush=True)
    print(echo.pid, *(keeper.pid for keeper in network._keepers), flush=True)
    sys.stdin.read()
"""


def test_a_cut_drops_packets_and_a_killed_test_leaves_no_process(tmp_path: os.PathLike[str]) -> None:
    log = f"{os.fspath(tmp_path)}/echo.log"
    process = subprocess.Popen(
        [*IN_A_NETWORK, "-c", ECHO_PROGRAM, log],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        output = [process.stdout.readline().split() for _ in range(4)]
        assert output[:3] == [["connected", "True"], ["cut", "False"], ["healed", "True"]]
        processes = [psutil.Process(int(pid)) for pid in output[3]]
        process.send_signal(signal.SIGKILL)
        assert wait_until_ended(processes, seconds=5) == []


ORDERS = 105
"""They start within 15 s: the cut begins after 5 s and lasts 5 s."""


@pytest.mark.chaos
@pytest.mark.proof
def test_no_order_is_lost_late_or_charged_twice_if_a_worker_has_no_network_for_5_s(
    record_property: Callable[[str, object], None],
) -> None:
    cut = subprocess.run(
        [sys.executable, "-m", "tests.chaos.machines", "--orders", str(ORDERS), "order-worker"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert cut.returncode == 0, cut.stderr
    record_property("crash", cut.stdout.splitlines()[-1])
