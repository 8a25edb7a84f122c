"""The components of the stack: their commands, order of start and health checks."""

import shutil
import sys
from dataclasses import replace
from functools import partial

from orchestrator.embedded import postgres, temporal
from orchestrator.embedded.component import Component, ListeningPort, RunningProcess, Stage
from orchestrator.embedded.health_checks import HealthChecks
from orchestrator.embedded.layout import PROJECT_ROOT, Layout
from orchestrator.settings import STACK_MARKER, Settings
from orchestrator.settings.environment import SERVER_VARIABLES

_LOCUST_STOP_SECONDS = 90
"""Time for a load test to drain and compute its verdict. Without a test, Locust stops immediately."""

_CONNECTIONS_PER_WORKER = 8
"""Pool size of a worker (db/database.py, not imported here: every command would load the driver)."""

_OTHER_CONNECTIONS = 68
"""For the API, dashboard, load tests, maintenance and psql."""

_SERVER_VARIABLES = (*SERVER_VARIABLES, STACK_MARKER)

_PROCESS = (sys.executable, "-m", "orchestrator.processes")


def components(settings: Settings) -> tuple[Component, ...]:
    """Return every component in starting order, without external servers."""
    layout = Layout(settings)
    planned = []
    if settings.uses_embedded_postgres:
        planned.append(_postgres(settings, layout))
    if settings.uses_embedded_temporal:
        planned.append(_temporal(settings, layout))
    kinds = [("order", settings.order_task_queue, n + 1) for n in range(settings.order_workers)]
    kinds += [("shipping", settings.shipping_task_queue, n + 1) for n in range(settings.shipping_workers)]
    planned += [
        _worker(settings, kind, task_queue, number, index=index)
        for index, (kind, task_queue, number) in enumerate(kinds)
    ]
    planned += [_api(settings), _dashboard(settings), _locust(settings)]
    return tuple(_without_keys(component) for component in planned)


def _without_keys(component: Component) -> Component:
    """Withhold the keys of payloads and gateways from all but workers and API, and the caller's API key from
    all components.

    The dashboard uses the API key of its user.
    """
    withheld = {"API_KEY": ""}
    if component.stage is not Stage.SERVICES:
        withheld |= {"PAYLOAD_KEYS": "", "STRIPE_API_KEY": "", "HTTP_GATEWAY_TOKEN": ""}
    return replace(component, environment={**component.environment, **withheld})


def _postgres(settings: Settings, layout: Layout) -> Component:
    workers = settings.order_workers + settings.shipping_workers
    connections = max(postgres.MIN_CONNECTIONS, workers * _CONNECTIONS_PER_WORKER + _OTHER_CONNECTIONS)
    return Component(
        name="postgres",
        command=postgres.server_command(layout, connections),
        stage=Stage.SERVERS,
        is_healthy=lambda checks, _process: checks.postgres_responds(),
        directory=layout.home,
        prepare=partial(postgres.prepare, layout),
        account=partial(postgres.account, layout),
        stop_signal=postgres.STOP_SIGNAL,
        stop_seconds=30,
        death_signal=postgres.DEATH_SIGNAL,
        socket=postgres.socket_path(layout),
        inherits=_SERVER_VARIABLES,
    )


def _temporal(settings: Settings, layout: Layout) -> Component:
    return Component(
        name="temporal",
        command=temporal.server_command(settings),
        stage=Stage.SERVERS,
        is_healthy=lambda checks, _process: checks.temporal_responds(),
        directory=layout.temporal_data,
        # The program reads a configuration file below HOME at its start. This HOME has none.
        environment={**temporal.ENVIRONMENT, "HOME": str(layout.temporal_data)},
        inherits=_SERVER_VARIABLES,
        prepare=lambda _report: layout.temporal_data.mkdir(exist_ok=True),
        after_start=partial(temporal.prepare_visibility, settings, layout),
        ports=(
            ListeningPort(settings.port("temporal"), "Temporal", "TEMPORAL_PORT"),
            ListeningPort(settings.port("temporal_ui"), "Temporal UI", "TEMPORAL_UI_PORT"),
            ListeningPort(settings.port("temporal_http"), "Temporal's HTTP API", "TEMPORAL_HTTP_PORT"),
            ListeningPort(settings.port("temporal_metrics"), "Temporal's metrics", "TEMPORAL_METRICS_PORT"),
        ),
    )


def _worker(settings: Settings, kind: str, task_queue: str, number: int, *, index: int) -> Component:
    # The worker's identity at Temporal is the name of its component.
    name = f"{kind}-worker-{number}"
    first_port = settings.worker_metrics_port
    use = f"the metrics of {name}"
    metrics = ListeningPort(first_port + index, use, "WORKER_METRICS_PORT", settings.bind_address)

    def is_healthy(checks: HealthChecks, process: RunningProcess) -> bool:
        return checks.worker_polls(task_queue, name, since=process.started_at)

    return Component(
        name=name,
        command=(*_PROCESS, "worker", kind, "--name", name),
        stage=Stage.SERVICES,
        is_healthy=is_healthy,
        directory=PROJECT_ROOT,
        # Without a first port, the system assigns the ports.
        environment={"WORKER_METRICS_PORT": str(metrics.number)} if first_port else {},
        ports=(metrics,) if first_port else (),
        # Earlier stacks may have had other workers.
        prepare=lambda _report: shutil.rmtree(settings.metrics_targets, ignore_errors=True),
    )


def _api(settings: Settings) -> Component:
    port = settings.port("api")
    return Component(
        name="api",
        command=(*_PROCESS, "api"),
        stage=Stage.SERVICES,
        is_healthy=lambda checks, _process: checks.http_responds(port, "/health"),
        directory=PROJECT_ROOT,
        ports=(ListeningPort(port, "the API", "API_PORT", settings.bind_address),),
    )


def _dashboard(settings: Settings) -> Component:
    port = settings.port("dashboard")
    return Component(
        name="dashboard",
        command=(sys.executable, "-m", "dashboard"),
        stage=Stage.CLIENTS,
        is_healthy=lambda checks, _process: checks.http_responds(
            port, f"{settings.dashboard_base_path}/_stcore/health"
        ),
        directory=PROJECT_ROOT,
        ports=(ListeningPort(port, "the dashboard", "DASHBOARD_PORT", settings.bind_address),),
    )


def _locust(settings: Settings) -> Component:
    port = settings.port("locust")
    return Component(
        name="locust",
        command=(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py"),
        stage=Stage.CLIENTS,
        is_healthy=lambda checks, _process: checks.http_responds(port, "/alive"),
        directory=PROJECT_ROOT,
        stop_seconds=_LOCUST_STOP_SECONDS,
        ports=(ListeningPort(port, "the load tests", "LOCUST_PORT", settings.bind_address),),
    )
