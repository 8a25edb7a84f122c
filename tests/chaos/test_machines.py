"""The network of the machines keeps its word, and a worker may be cut off from it.

Collected only where network namespaces can be made (see conftest.py, which says so where they cannot);
`make machines` cuts every other part off too.
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

A_MACHINE_THAT_ECHOES = """
import socket, sys
from pathlib import Path
from tests.chaos.network import Network

ECHO = '''
import socket
listener = socket.create_server(("", 7))
print("listening", flush=True)
connection = listener.accept()[0]
while heard := connection.recv(1):
    connection.sendall(heard)
'''

def answers(connection):
    connection.sendall(b"?")
    try:
        return connection.recv(1) == b"?"
    except TimeoutError:
        return False

with Network() as network:
    network.add_ourselves("here")
    there = network.add("there")
    log = Path(sys.argv[1])
    echo = there.start([sys.executable, "-c", ECHO], log=log, directory=Path.cwd())
    while "listening" not in log.read_text():
        assert echo.poll() is None, log.read_text()
    connection = socket.create_connection((there.address, 7), timeout=1)
    print("connected", answers(connection), flush=True)
    network.cut(there)
    print("cut", answers(connection), flush=True)
    network.heal(there)
    connection.settimeout(20)
    # What was sent into the void is sent again.
    print("healed", connection.recv(1) == b"?" and answers(connection), flush=True)
    print(echo.pid, *(keeper.pid for keeper in network._keepers), flush=True)
    sys.stdin.read()
"""


def test_a_cut_is_silent_and_healed_and_a_killed_test_leaves_nothing(tmp_path: os.PathLike[str]) -> None:
    log = f"{os.fspath(tmp_path)}/echo.log"
    process = subprocess.Popen(
        [*IN_A_NETWORK, "-c", A_MACHINE_THAT_ECHOES, log],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in range(4)]
        assert told[:3] == [["connected", "True"], ["cut", "False"], ["healed", "True"]]
        inhabitants = [psutil.Process(int(pid)) for pid in told[3]]
        process.send_signal(signal.SIGKILL)
        assert wait_until_ended(inhabitants, seconds=5) == []


ORDERS = 105
"""They arrive for 15 s: the cable is pulled after 5 s, and put back 5 s later."""


@pytest.mark.chaos
@pytest.mark.proof
def test_an_order_worker_that_is_cut_off_for_5_s_breaks_no_promise(
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
