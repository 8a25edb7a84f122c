"""What the routes work with: made when the application starts, one of each a process."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from temporalio.client import Client

from db.database import Database
from orchestrator.api.admission import Admission
from orchestrator.api.auth import KeyRing
from orchestrator.api.health import Health
from orchestrator.api.metrics import Metrics
from orchestrator.api.order_service import Lifecycle
from orchestrator.api.outcome_notifier import OutcomeNotifier
from orchestrator.api.report_limiter import ReportLimiter
from orchestrator.api.routes.temporal_ui_login import UiKeys
from orchestrator.settings import Settings


@dataclass(frozen=True)
class Context:
    """`reports` is a small pool of its own, so that long exports never keep a quick reading waiting; who
    uses it holds one of `places`."""

    settings: Settings
    database: Database
    reports: Database
    places: ReportLimiter
    client: Client
    lifecycle: Lifecycle
    watch: OutcomeNotifier
    admission: Admission
    keys: KeyRing
    ui_keys: UiKeys
    health: Health
    metrics: Metrics


async def _of_the_application(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Ctx = Annotated[Context, Depends(_of_the_application)]
