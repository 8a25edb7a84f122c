"""Shared by all measurements: the running stack, table rows, order ids and database URLs."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import httpx
from temporalio.client import Client

from orchestrator.embedded import Stack
from orchestrator.settings import Settings

SAMPLE_ADDRESS = {"street": "1 Main Street", "city": "Springfield", "state": "IL", "zip": "62701"}
FAULTS_APPLY_SECONDS = 1.0
"""Workers poll the fault profile more often than this."""


@dataclass(frozen=True)
class Measurement:
    """One row of the performance table. `is_met` is None if the target is not checked."""

    measure: str
    value: str
    target: str = ""
    is_met: bool | None = None

    def __str__(self) -> str:
        return f"| {self.measure} | {self.value} | {self.target} |"


TABLE_HEADER = "| measure | value | target |\n|---|---|---|"


@dataclass(frozen=True)
class Bench:
    """A running stack and a client of its Temporal server."""

    settings: Settings
    stack: Stack
    client: Client

    @property
    def api_url(self) -> str:
        return self.settings.api_url

    def pids(self, *prefixes: str) -> list[int]:
        """Return the processes of the components with these name prefixes."""
        return [
            component.pid
            for component in self.stack.components()
            if component.pid is not None and component.name.startswith(prefixes)
        ]

    async def set_faults(self, profile: str, seed: int = 1) -> None:
        """Apply a fault profile and wait until every worker uses it."""
        async with httpx.AsyncClient(base_url=self.api_url, trust_env=False) as http:
            response = await http.put("/faults", json={"profile": profile, "seed": seed})
            response.raise_for_status()
        await asyncio.sleep(FAULTS_APPLY_SECONDS)


def database_url(settings: Settings, name: str) -> str:
    """Return the URL of another database on the server of the order database."""
    return urlunsplit(urlsplit(settings.order_database_url)._replace(path=f"/{name}"))


def unique_id(measure: str) -> str:
    return f"bench-{measure}-{uuid4().hex[:8]}"


async def timed_ms(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000
