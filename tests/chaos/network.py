"""Machines of a test: Linux network namespaces on one switch, whose cables can be pulled.

A namespace lives as long as a process is in it, and every process here dies with the one that made the
network. So nothing is left of it, whatever happens to that process: no namespace, no link, no address.
Needs root, and the programs of iproute2 and util-linux.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ip", "nsenter", "setpriv", "unshare")
SUBNET = "10.99.0.0/24"
_ADDRESS = "10.99.0.{}"
_SWITCH = "switch"

APPEARS_SECONDS = 5.0


def what_is_missing() -> list[str]:
    """Why this machine cannot make networks, a phrase each; empty when it can."""
    missing = [] if os.geteuid() == 0 else ["root"]
    return missing + [f"the program {program}" for program in PROGRAMS if shutil.which(program) is None]


@dataclass(frozen=True)
class Machine:
    """A namespace with one address. `port` is its end of the cable at the switch."""

    name: str
    address: str
    port: str
    network: str
    """The file that names its network namespace."""

    def start(
        self,
        command: Sequence[str],
        *,
        log: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        group: int | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> subprocess.Popen[bytes]:
        """Starts a process there. It dies with us, of `death_signal`."""
        account = []
        if user is not None and group is not None:
            account = [f"--reuid={user}", f"--regid={group}", f"--groups={group}"]
        with log.open("ab") as output:
            return subprocess.Popen(
                [
                    *("nsenter", f"--net={self.network}"),
                    *("setpriv", f"--pdeathsig={death_signal.name}", *account),
                    *command,
                ],
                stdout=output,
                stderr=output,
                cwd=directory,
                env=None if environment is None else dict(environment),
                # Ctrl-C is for the test, which then ends its machines in order.
                start_new_session=True,
            )


class Network:
    """A switch and the machines on it. A context manager; call it from the main thread."""

    def __init__(self) -> None:
        self._keepers: list[subprocess.Popen[bytes]] = []
        self._switch = ""
        self._plugged = 0

    def __enter__(self) -> "Network":
        try:
            self._switch = self._new_namespace()
            _run("ip", "link", "add", _SWITCH, "type", "bridge", inside=self._switch)
            _run("ip", "link", "set", _SWITCH, "up", inside=self._switch)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for keeper in self._keepers:
            keeper.kill()
            keeper.wait()

    def add(self, name: str) -> Machine:
        """A new machine on the switch."""
        return self._plug_in(name, self._new_namespace())

    def add_ourselves(self, name: str) -> Machine:
        """This process's own namespace as a machine on the switch."""
        return self._plug_in(name, "/proc/self/ns/net")

    def cut(self, machine: Machine) -> None:
        """Pulls its cable out of the switch: from now on all that it sends, or that is sent to it, is lost.
        Nobody is told: its own link stays up, and no connection sees an end."""
        _run("ip", "link", "set", machine.port, "nomaster", inside=self._switch)

    def heal(self, machine: Machine) -> None:
        _run("ip", "link", "set", machine.port, "master", _SWITCH, inside=self._switch)

    def _plug_in(self, name: str, network: str) -> Machine:
        self._plugged += 1
        address, port = _ADDRESS.format(self._plugged), f"port{self._plugged}"
        machine = Machine(name, address, port, network)
        # Made at the machine, with the other end in the switch: our own namespace has no process to name.
        switch_pid = str(self._keepers[0].pid)
        _run(
            *("ip", "link", "add", "eth0", "type", "veth", "peer", "name", machine.port, "netns", switch_pid),
            inside=network,
        )
        _run("ip", "address", "add", f"{machine.address}/24", "dev", "eth0", inside=network)
        for link in ("lo", "eth0"):
            _run("ip", "link", "set", link, "up", inside=network)
        _run("ip", "link", "set", machine.port, "master", _SWITCH, "up", inside=self._switch)
        return machine

    def _new_namespace(self) -> str:
        """Its file; a process that does nothing keeps it."""
        keeper = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "sleep", "infinity"], start_new_session=True
        )
        self._keepers.append(keeper)
        network = f"/proc/{keeper.pid}/ns/net"
        ours = os.readlink("/proc/self/ns/net")
        not_after = time.monotonic() + APPEARS_SECONDS
        while os.readlink(network) == ours:
            if keeper.poll() is not None or time.monotonic() > not_after:
                raise RuntimeError("no network namespace could be made")
            time.sleep(0.005)
        return network


def _run(*command: str, inside: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--net={inside}", *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
