"""Checks of the running compose file. Each returns its result as text, or raises ProofError."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.compose import base_images, reachability
from tests.compose.engine import ProofError, wait_for
from tests.compose.project import PLANTED_FILES, PLANTED_SECRET, Container, Project
from tests.deployment import compose

CORE, FULL = "order-lifecycle:local", "order-lifecycle:local-full"

HEALTH_CHECK_SECONDS = 0.05
"""Maximum CPU time of one health check."""
HEALTH_CHECKS = 10

_MEASURE = """
import resource, subprocess, sys
for _ in range(int(sys.argv[1])):
    subprocess.run(sys.argv[2:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print((used.ru_utime + used.ru_stime) / int(sys.argv[1]))
"""

PASSWORDS_PAGE = PROJECT_ROOT / "docs" / "how-to" / "change-keys-and-passwords.md"

LOAD_TEST_SECONDS = 120.0
RESTART_SECONDS = 180.0

_LOAD_TEST = """
import json, sys, time
import httpx
page = httpx.Client(
    base_url="http://127.0.0.1:8089", trust_env=False, timeout=30, auth=("proof", sys.argv[1])
)
deadline = time.monotonic() + float(sys.argv[2])
def until(read):
    while not (value := read()):
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.5)
    return value
until(lambda: len(page.get("/stats/requests").json()["workers"]) == 2)
form = {"user_count": "1", "spawn_rate": "1", "scenario": "mixed", "rate": "3", "duration": "10s",
        "faults": "assignment", "run_id": "compose-proof", "slo_target": "0.5"}
response = page.post("/swarm", data=form).json()
assert response["success"], response
until(lambda: page.get("/verdict.json").json()["verdict"])
print(page.get("/verdict.json").text)
"""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ProofError(message)


# --- Images ---------------------------------------------------------------------------------------------


def image_sizes(project: Project) -> str:
    def size(image: str) -> float:
        return int(project.engine.docker("image", "inspect", "--format={{.Size}}", image).stdout) / 1e6

    base = size(base_images.python_image())
    return f"core {size(CORE):.0f} MB, full {size(FULL):.0f} MB; the base image {base:.0f} MB of each"


def image_contents(project: Project) -> str:
    for image in (CORE, FULL):
        for module in ("pip", "pytest"):
            done = project.engine.docker(
                "run", "--rm", image, "python", "-c", f"import {module}", check=False
            )
            _require("ModuleNotFoundError" in done.stderr, f"{image} contains {module}. {done.stderr}")
        done = project.engine.docker("run", "--rm", image, "grep", "-rl", PLANTED_SECRET, "/app", check=False)
        _require(
            done.returncode == 1, f"{image} contains secrets of the checkout: {done.stdout}{done.stderr}"
        )
        project.engine.docker("run", "--rm", "--read-only", image)
    return f"no pip, no pytest, none of {len(PLANTED_FILES)} files with secrets"


# --- The running services -------------------------------------------------------------------------------


def start(project: Project) -> str:
    project.up()
    return f"{sum(project.counts().values())} containers are healthy"


def order(project: Project) -> str:
    """Send one order. The command fails unless the order completes within its limit."""
    project.exec("api", "python", "-m", "orchestrator", "test", "first")
    status = json.loads(project.exec("api", "python", "-m", "orchestrator", "status", "first", "--json"))
    return f"{status['state']} after {status['completion_ms'] / 1000:.1f} s"


def health_checks(project: Project) -> str:
    used = {}
    for service in compose.LASTING:
        if service.is_ours:
            command = ["python", "-c", _MEASURE, str(HEALTH_CHECKS), *service.health_check]
            used[service.name] = float(project.exec(service.name, *command))
    slow = {name: seconds for name, seconds in used.items() if seconds > HEALTH_CHECK_SECONDS}
    _require(not slow, f"A health check used more than {HEALTH_CHECK_SECONDS} s of CPU: {slow}")
    return ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in used.items()) + " of CPU each"


def resource_attributes(project: Project) -> str:
    expected = project.settings["ORDERS_RESOURCE_ATTRIBUTES"]
    for service in ("api", "order-worker", "shipping-worker"):
        found = project.exec(service, "printenv", "OTEL_RESOURCE_ATTRIBUTES").strip()
        _require(found == expected, f"{service} has OTEL_RESOURCE_ATTRIBUTES={found}")
    return expected


def reachable_ports(project: Project) -> str:
    """Connect from every container, jobs included, to every port of every other one."""
    jobs = [name for name, service in compose.SERVICES.items() if service.is_job and service.networks]
    waiting = [
        project.compose("run", "--detach", "--no-deps", "--entrypoint", "sleep", job, "600").split()[-1]
        for job in jobs
    ]
    try:
        containers = [container for container in project.containers() if container.is_running]
        pids = {container.id: container.host_pid() for container in containers}
        ports = {container.id: reachability.listening_ports(pids[container.id]) for container in containers}
        pairs = 0
        for source in containers:
            others = [each for each in containers if each.service != source.service]
            targets = {
                (address, port): each.service
                for each in others
                for address in each.addresses
                for port in ports[each.id]
            }
            script = [sys.executable, reachability.__file__, json.dumps(list(targets))]
            answers = json.loads(project.engine.on_host(script, pids[source.id], timeout=120))
            reached = {targets[address, port] for address, port in answers}
            _check_reached(source, reached, {each.service for each in others if ports[each.id]})
            pairs += len({each.service for each in others})
    finally:
        project.engine.docker("rm", "--force", "--volumes", *waiting)
    return f"{pairs} directed pairs of containers and services"


def _check_reached(source: Container, reached: set[str], listening: set[str]) -> None:
    uses = compose.USES.get(source.service, set())
    # A network has no direction: a server also reaches the ports of the services that use it.
    may_reach = uses | {name for name, used in compose.USES.items() if source.service in used}
    _require(uses <= reached, f"{source.service} does not reach {', '.join(sorted(uses - reached))}.")
    _require(reached <= may_reach, f"{source.service} reaches {', '.join(sorted(reached - may_reach))}.")
    _require(listening, "No service listens.")


# --- Changes --------------------------------------------------------------------------------------------


def scaling(project: Project) -> str:
    before = {container.start for container in project.lasting()}
    for settings in ({"ORDER_WORKERS": "3"}, {"SHIPPING_WORKERS": "3"}, {"ORDER_WORKERS": "2"}, {}):
        project.set(**settings)
        project.up()
        for name, variable in (("order-worker", "ORDER_WORKERS"), ("shipping-worker", "SHIPPING_WORKERS")):
            expected, found = int(project.settings.get(variable, "2")), project.counts()[name]
            _require(
                found == expected, f"After {settings}, {found} containers of {name} run, not {expected}."
            )
    restarted = before - {container.start for container in project.lasting()}
    _require(not restarted, f"Scaling restarted containers: {restarted}")
    project.set(SHIPPING_WORKERS="2")
    project.up()
    return "order workers 2, 3, 2; shipping workers 2, 3; no container restarted"


def password_change(project: Project) -> str:
    commands = re.search(
        r"^docker compose up --no-deps postgres-roles\n(docker .*)$", PASSWORDS_PAGE.read_text(), re.MULTILINE
    )
    assert commands is not None
    before = {container.start: container.service for container in project.lasting()}
    project.set(ORDERS_READER_PASSWORD=project.settings["ORDERS_READER_PASSWORD"][::-1])
    for command in commands[0].splitlines():
        project.documented(command)
    project.exec(
        "dashboard", "python", "-c", "import os, psycopg; psycopg.connect(os.environ['DATABASE_READER_URL'])"
    )
    project.compose("up", "--detach", "--wait", "--no-recreate")
    after = {container.start for container in project.lasting()}
    restarted = {service for start, service in before.items() if start not in after}
    _require(restarted == {"dashboard"}, f"Changing the dashboard's password restarted {sorted(restarted)}.")
    return "only the dashboard restarted"


def load_test(project: Project) -> str:
    script = [sys.executable, "-c", _LOAD_TEST, project.settings["API_KEY"], str(LOAD_TEST_SECONDS)]
    shown: dict[str, Any] = json.loads(project.engine.on_host(script, timeout=LOAD_TEST_SECONDS + 30))
    verdict, rows = shown["verdict"], shown["results"]
    sentences = "\n".join(f"{subject}: {result}" for subject, result in rows.items())
    _require(verdict["exit_code"] == 0, f"The load test ended with {verdict['verdict']}.\n{sentences}")
    return f"2 load generators, verdict {verdict['verdict']}; limit {rows['limit']}"


def new_version(project: Project) -> str:
    """Follow the documented upgrade."""
    current = (
        "docker compose run --rm --no-deps temporal-namespace temporal worker deployment set-current-version "
        "--deployment-name orders --build-id {} --yes"
    )
    project.set(WORKER_BUILD_ID="1")
    project.documented("docker compose up --detach --wait order-worker shipping-worker")
    project.documented(current.format(1))
    project.documented("docker compose up --detach --wait")
    code = project.engine.project / "orchestrator" / "__init__.py"
    code.write_text(code.read_text() + "# The next version.\n")
    project.documented("docker compose --profile next-version build order-worker-next")
    project.documented(
        "NEXT_BUILD_ID=2 docker compose --profile next-version up --detach --wait --no-deps "
        "order-worker-next shipping-worker-next"
    )
    project.documented(current.format(2))
    project.exec("api", "python", "-m", "orchestrator", "test", "on-version-2")
    described = project.documented(
        "docker compose run --rm --no-deps temporal-namespace temporal workflow describe "
        "--workflow-id order-on-version-2 --output json"
    )
    versions = set(re.findall(r'"(?:deploymentVersion|version|buildId)": "([^"]+)"', described))
    _require(versions & {"2", "orders.2", "orders:2"}, f"The order ran on {versions or described[-1500:]}.")
    project.set(ORDERS_IMAGE="order-lifecycle:2", WORKER_BUILD_ID="2")
    project.documented("docker compose build")
    project.documented("docker compose up --detach --wait --no-deps order-worker shipping-worker")
    project.documented(
        "docker compose --profile next-version rm --stop --force order-worker-next shipping-worker-next"
    )
    project.documented("docker compose up --detach --wait")
    project.require_healthy()
    project.exec("api", "python", "-m", "orchestrator", "test", "after-the-upgrade")
    return "an order ran on version 2; version 1 was replaced"


def engine_restart(project: Project) -> str:
    services = project.counts()
    project.engine.stop()
    project.engine.start()
    wait_for(
        lambda: project.counts() == services and all(each.is_healthy for each in project.lasting()),
        RESTART_SECONDS,
        "Every service",
    )
    project.exec("api", "python", "-m", "orchestrator", "test", "after-the-restart")
    return "every service is healthy again, and an order completed"


def audit(project: Project) -> str:
    return project.exec("api", "python", "-m", "orchestrator", "audit").strip().splitlines()[-1]


def down(project: Project) -> str:
    """Our services leave no anonymous volume; the stand-in of Temporal's server has one."""
    standin = {
        mount["Name"]
        for container in project.lasting()
        for mount in container.details["Mounts"]
        if mount["Destination"] == "/data"
    }
    project.compose("down")
    volumes = set(project.engine.docker("volume", "ls", "--quiet").stdout.split())
    named = {f"project_{name}" for name in compose.top_level("volumes")}
    _require(volumes - standin == named, f"After `down` these volumes exist: {sorted(volumes - standin)}")
    project.compose("down", "--volumes")
    remaining = project.engine.docker("ps", "--all", "--quiet").stdout.split()
    networks = project.engine.docker("network", "ls", "--quiet", "--filter", "name=project_").stdout.split()
    _require(not remaining + networks, f"After `down` these remain: {remaining + networks}")
    return "no container, network or anonymous volume is left"


def leftovers(directory: Path) -> list[str]:
    """Return the mounts, control groups and processes that the proof left on this machine."""
    mounts = [
        line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line
    ]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("*/compose-proof-*")]
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # The root directory of the process is in `directory`, under any name in its namespace.
            if str(directory) in (process / "mountinfo").read_text():
                processes.append(process.name)
        except OSError:
            continue
    return mounts + groups + processes
