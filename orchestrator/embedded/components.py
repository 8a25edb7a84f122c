"""The components of the stack, in one place: what is started, how, and how one sees that it is well."""

import shutil
import sys
from dataclasses import replace
from functools import partial

from orchestrator.embedded import postgres, temporal
from orchestrator.embedded.component import Component, ListeningPort, RunningProcess, Stage
from orchestrator.embedded.health_checks import Probes
from orchestrator.embedded.layout import PROJECT_ROOT, Layout
from orchestrator.settings import Settings

_LAST_RUN_SECONDS = 90
"""How long a load test may take to drain and be judged when it is stopped, by default; without one Locust
ends at once."""

_OF_A_WORKER = 8
"""Connections to PostgreSQL: its pool's, of db/database.py, which no command should have to load for this."""

_OTHERS = 68
"""For all who are no workers: API, dashboard, load tests, housekeeping, and people."""

_PROCESS = (sys.executable, "-m", "orchestrator.processes")


def components(settings: Settings) -> tuple[Component, ...]:
    """Every component, in the order of their start. External servers are not among them."""
    layout = Layout.of(settings)
    planned = []
    if settings.uses_embedded_postgres:
        planned.append(_postgres(settings, layout))
    if settings.uses_embedded_temporal:
        planned.append(_temporal(settings, layout))
    planned += [
        _worker(settings, "order", settings.order_task_queue, n + 1, nth=n)
        for n in range(settings.order_workers)
    ]
    planned += [
        _worker(settings, "shipping", settings.shipping_task_queue, n + 1, nth=settings.order_workers + n)
        for n in range(settings.shipping_workers)
    ]
    planned.append(_api(settings))
    planned.append(_dashboard(settings))
    planned.append(_locust(settings))
    return tuple(_without_keys(component) for component in planned)


def _without_keys(component: Component) -> Component:
    """The keys of payloads go to those alone who read payloads: the workers and the API. The key of whoever
    starts the stack goes to nobody: a screen asks the API with that of its viewer."""
    withheld = {"API_KEY": ""} if component.stage is Stage.SERVICES else {"API_KEY": "", "PAYLOAD_KEYS": ""}
    return replace(component, environment={**component.environment, **withheld})


def _postgres(settings: Settings, layout: Layout) -> Component:
    workers = settings.order_workers + settings.shipping_workers
    return Component(
        name="postgres",
        command=postgres.server_command(layout, max(postgres.CONNECTIONS, workers * _OF_A_WORKER + _OTHERS)),
        stage=Stage.SERVERS,
        healthy=lambda probes, _process: probes.postgres_answers(),
        directory=layout.home,
        prepare=partial(postgres.prepare, layout),
        account=partial(postgres.account, layout),
        stop_signal=postgres.STOP_SIGNAL,
        stop_seconds=30,
        death_signal=postgres.DEATH_SIGNAL,
        socket=postgres.socket_path(layout),
    )


def _temporal(settings: Settings, layout: Layout) -> Component:
    return Component(
        name="temporal",
        command=temporal.server_command(settings),
        stage=Stage.SERVERS,
        healthy=lambda probes, _process: probes.temporal_timeout(),
        directory=layout.temporal_data,
        environment=temporal.ENVIRONMENT,
        prepare=partial(temporal.prepare, settings, layout),
        ports=(
            ListeningPort(settings.port("temporal"), "Temporal", "TEMPORAL_PORT"),
            ListeningPort(settings.port("temporal_ui"), "Temporal's UI", "TEMPORAL_UI_PORT"),
            ListeningPort(settings.port("temporal_http"), "Temporal's HTTP API", "TEMPORAL_HTTP_PORT"),
            ListeningPort(settings.port("temporal_metrics"), "Temporal's metrics", "TEMPORAL_METRICS_PORT"),
        ),
    )


def _worker(settings: Settings, kind: str, task_queue: str, number: int, *, nth: int) -> Component:
    # The worker's identity at Temporal is its component's name.
    name = f"{kind}-worker-{number}"

    def healthy(probes: Probes, process: RunningProcess) -> bool:
        return probes.worker_polls(task_queue, name, since=process.started_at)

    return Component(
        name=name,
        command=(*_PROCESS, "worker", kind, "--name", name),
        stage=Stage.SERVICES,
        healthy=healthy,
        directory=PROJECT_ROOT,
        environment=_metrics_port(settings, nth),
        # Whom an earlier stack had, and this one may have no more.
        prepare=partial(shutil.rmtree, settings.metrics_targets, ignore_errors=True),
    )


def _metrics_port(settings: Settings, nth: int) -> dict[str, str]:
    """Workers on one machine count on from the first one's port, when it is not the system's choice."""
    first = settings.worker_metrics_port
    return {"WORKER_METRICS_PORT": str(first + nth)} if first else {}


def _api(settings: Settings) -> Component:
    port = settings.port("api")
    return Component(
        name="api",
        command=(*_PROCESS, "api"),
        stage=Stage.SERVICES,
        healthy=lambda probes, _process: probes.http_answers(port, "/health"),
        directory=PROJECT_ROOT,
        ports=(ListeningPort(port, "the API", "API_PORT", settings.bind_address),),
    )


def _dashboard(settings: Settings) -> Component:
    port = settings.port("dashboard")
    return Component(
        name="dashboard",
        command=(sys.executable, "-m", "dashboard"),
        stage=Stage.SCREENS,
        healthy=lambda probes, _process: probes.http_answers(port, "/_stcore/health"),
        directory=PROJECT_ROOT,
        ports=(ListeningPort(port, "the dashboard", "DASHBOARD_PORT", settings.bind_address),),
    )


def _locust(settings: Settings) -> Component:
    port = settings.port("locust")
    return Component(
        name="locust",
        command=(sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py"),
        stage=Stage.SCREENS,
        healthy=lambda probes, _process: probes.http_answers(port, "/alive"),
        directory=PROJECT_ROOT,
        stop_seconds=_LAST_RUN_SECONDS,
        ports=(ListeningPort(port, "the load tests", "LOCUST_PORT", settings.bind_address),),
    )
