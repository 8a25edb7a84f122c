"""The services that routes use; one instance of each per process."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from temporalio.client import Client

from db.database import Database
from orchestrator.api.admission import Admission
from orchestrator.api.health import Health
from orchestrator.api.metrics import Metrics
from orchestrator.api.middleware.auth import KeyStore
from orchestrator.api.order_service import OrderService
from orchestrator.api.outcome_notifier import OutcomeNotifier
from orchestrator.api.report_limiter import ReportLimiter
from orchestrator.deadlines import TimeNeeds
from orchestrator.settings import Settings


@dataclass(frozen=True)
class Context:
    """`reports` is a separate connection pool, so that reports do not delay other queries. Use it only inside
    a slot of `report_limiter`. `time_needs` are those of the gateways; None for simulated ones."""

    settings: Settings
    database: Database
    reports: Database
    report_limiter: ReportLimiter
    client: Client
    order_service: OrderService
    outcomes: OutcomeNotifier
    admission: Admission
    keys: KeyStore
    health: Health
    metrics: Metrics
    time_needs: TimeNeeds | None


async def _from_application(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Ctx = Annotated[Context, Depends(_from_application)]
