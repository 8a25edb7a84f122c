"""What the routes work with: made when the application starts, one of each a process."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from temporalio.client import Client

from db.pool import Books
from orchestrator.api.access import KeyRing
from orchestrator.api.admission import Admission
from orchestrator.api.health import Health
from orchestrator.api.lifecycle import Lifecycle
from orchestrator.api.metrics import Metrics
from orchestrator.api.report_places import ReportPlaces
from orchestrator.api.ui_login import UiKeys
from orchestrator.api.waiting import OutcomeWatch
from orchestrator.settings import Settings


@dataclass(frozen=True)
class Context:
    """`reports` is a small pool of its own, so that long exports never keep a quick reading waiting; who
    uses it holds one of `places`."""

    settings: Settings
    books: Books
    reports: Books
    places: ReportPlaces
    client: Client
    lifecycle: Lifecycle
    watch: OutcomeWatch
    admission: Admission
    keys: KeyRing
    ui_keys: UiKeys
    health: Health
    metrics: Metrics


async def _of_the_application(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Ctx = Annotated[Context, Depends(_of_the_application)]
