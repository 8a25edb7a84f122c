"""Commands that keep a system well over the years: retention, backup, restore, doctor."""

import asyncio
import re
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from orchestrator.cli.output import AsJson, console, echo, print_json
from orchestrator.errors import UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.operations.doctor import Observations


def register(app: typer.Typer) -> None:
    app.command()(retention)
    app.command()(backup)
    app.command()(restore)
    app.command()(doctor)


def retention(
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="DAYS", help="For example 90d; by default EVENTS_KEEP_DAYS."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop events of days that are older. Orders, payments, ledger and charts stay."""
    from db.maintenance.retention import drop_expired

    settings = Settings.load()
    report = asyncio.run(drop_expired(settings.order_database_url, _kept(keep, settings), dry_run=dry_run))
    if as_json:
        print_json({"dry_run": dry_run} | report.to_json())
        return
    if report.is_elsewhere:
        echo("Another process is dropping events just now; nothing was done.")
        return
    for partition in report.expired if dry_run else report.dropped:
        verb = "would go" if dry_run else "dropped"
        echo(
            f"{verb}: {partition.name}, events until {partition.to_at:%Y-%m-%d}, {megabytes(partition.bytes)}"
        )
    for partition in report.held:
        echo(
            f"held: {partition.name}, since an order of {report.oldest_open_at:%Y-%m-%d %H:%M} is still open"
        )
    for partition in report.busy:
        echo(f"busy: {partition.name} is being read; it goes with the next look")
    if not (report.expired or report.dropped or report.held or report.busy):
        echo(f"No day of events is wholly older than {report.cutoff:%Y-%m-%d %H:%M} UTC.")


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; must not exist.")],
) -> None:
    """Copy the embedded stack's data into one file, while it runs or not."""
    from orchestrator.embedded import Stack
    from orchestrator.operations.backup import back_up

    began = time.monotonic()
    with console.status("Backing up"):
        manifest = back_up(Stack(Settings.load()), file, _echo_step)
    size = megabytes(file.expanduser().stat().st_size)
    echo(f"{file}: {size}, of the {manifest.made_of} stack, in {time.monotonic() - began:.1f} s.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `backup` has written.")],
    force: Annotated[bool, typer.Option("--force", help="Move data that is there aside.")] = False,
) -> None:
    """Put a backup's data into a stopped stack's ORDERS_HOME."""
    from orchestrator.embedded import Stack
    from orchestrator.operations.backup import restore as put_back

    settings = Settings.load()
    with console.status("Restoring"):
        restored = put_back(Stack(settings), file, force=force, report=_echo_step)
    if restored.replaced is not None:
        echo(f"What was there before is in {restored.replaced}.")
    echo(f"{settings.home} holds the stack of {restored.manifest.made_at}. Start it: make up.")
    echo("Its API keys are those of that time: one that was revoked since is valid again (see keys list).")


def doctor(as_json: AsJson = False) -> None:
    """Check every component and report problems with advice. Exits 1 if there is a problem."""
    from orchestrator.operations.doctor import diagnose, observe

    began = time.monotonic()
    with console.status("Checking"):
        observed = asyncio.run(observe(Settings.load()))
    findings = diagnose(observed)
    problems = sum(finding.severity == "problem" for finding in findings)
    if as_json:
        print_json({"healthy": not problems, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            label, style = ("problem", "red") if finding.severity == "problem" else ("notice", "yellow")
            console.print(
                Text(f"{label:<9}", style=style).append(Text(finding.message, style="default")),
                soft_wrap=True,
            )
            echo(f"         {finding.advice}")
        for line in _measurements(observed):
            echo(line)
        count = "No problems" if not problems else "1 problem" if problems == 1 else f"{problems} problems"
        echo(f"{count} found in {time.monotonic() - began:.1f} s.")
    if problems:
        raise typer.Exit(ExitCode.CRASHED)


def _measurements(observed: "Observations") -> list[str]:
    disk = observed.disk
    lines = [f"disk      {disk.free_bytes / 1e9:.0f} GB free of {disk.total_bytes / 1e9:.0f} GB"]
    if observed.stack is not None and observed.stack.is_up:
        lines.append(f"stack     {len(observed.stack.processes)} components, {len(observed.ports)} ports")
    database = observed.database
    if database is not None and database.error is None:
        lines.append(
            f"database  PostgreSQL {database.version_text}, response in {database.response_ms:.1f} ms, "
            f"{database.connections} of {database.max_connections} connections"
        )
        if database.hidden_connections:
            lines.append(
                f"          {database.hidden_connections} connections belong to other users; their locks and "
                "statements are not visible"
            )
    if observed.temporal is not None and observed.temporal.error is None:
        waiting = ", ".join(f"{queue.name} {queue.backlog} waiting" for queue in observed.temporal.queues)
        lines.append(f"queues    Temporal {observed.temporal.version}: {waiting}")
    return lines


def _echo_step(sentence: str) -> None:
    echo(f"  {sentence}")


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _kept(keep: str | None, settings: Settings) -> timedelta:
    """Raises UsageError."""
    if keep is None:
        if settings.events_keep_days is None:
            raise UsageError("Say how long events are kept: --keep 90d, or EVENTS_KEEP_DAYS")
        return timedelta(days=settings.events_keep_days)
    match = re.fullmatch(r"([0-9]{1,5})d", keep)
    if match is None or int(match[1]) < 1:
        raise UsageError(f"--keep {keep} is not a number of days; write 90d, and at least 1d")
    return timedelta(days=int(match[1]))
