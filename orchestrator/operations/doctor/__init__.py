"""Diagnose a system: findings about every component, each with advice."""

import asyncio
import time
from collections.abc import Callable

from orchestrator.embedded import Stack
from orchestrator.operations.doctor import database, machine, ownership, temporal
from orchestrator.operations.doctor.report import Report
from orchestrator.settings import Settings
from orchestrator.startup import Finding
from orchestrator.startup.configuration import configuration_findings, gateway_findings

__all__ = ["Finding", "Report", "diagnose"]


async def diagnose(settings: Settings, clock: Callable[[], float] = time.time) -> Report:
    """Check every component and return all findings, problems first. Takes at most 5 s and never raises.

    `clock` returns this machine's time, in seconds since the epoch; other clocks are compared with it.
    """
    stack = Stack(settings)
    settings = stack.running_settings()
    is_up = stack.is_up()
    checks = [asyncio.to_thread(machine.check, stack, settings, is_up=is_up)]
    # Components of the embedded stack are not called while it is down.
    if is_up or not machine.needs_stack(stack, settings):
        checks.append(machine.check_api(settings, is_embedded=is_up))
    if is_up or not settings.uses_embedded_postgres:
        checks.append(database.check(settings, clock))
    if is_up or not settings.uses_embedded_temporal:
        checks.append(temporal.check(settings, clock))
    if is_up or not (settings.uses_embedded_postgres or settings.uses_embedded_temporal):
        checks.append(ownership.check(settings))
    reports = [
        Report([*configuration_findings(settings), *gateway_findings(settings)]),
        *await asyncio.gather(*checks),
    ]
    findings = [finding for report in reports for finding in report.findings]
    return Report(
        sorted(findings, key=lambda finding: finding.severity == "notice"),
        [line for report in reports for line in report.measurements],
    )
