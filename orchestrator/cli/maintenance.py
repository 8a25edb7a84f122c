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
    from orchestrator.operations.doctor import Readings


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
    """Say what is wrong and what to do; exits 1 when something is."""
    from orchestrator.operations.doctor import diagnose, take

    began = time.monotonic()
    with console.status("Looking"):
        readings = asyncio.run(take(Settings.load()))
    found = diagnose(readings)
    problems = [finding for finding in found if finding.severity == "problem"]
    if as_json:
        print_json({"healthy": not problems, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            mark = (
                Text("wrong   ", style="red")
                if finding.severity == "problem"
                else Text("notice  ", style="yellow")
            )
            console.print(mark.append(Text(finding.what, style="default")), soft_wrap=True)
            echo(f"        {finding.advice}")
        for line in _looked_at(readings):
            echo(line)
        echo(f"{_counted(len(problems))}; looked for {time.monotonic() - began:.1f} s.")
    if problems:
        raise typer.Exit(ExitCode.CRASHED)


def _looked_at(readings: "Readings") -> list[str]:
    """What answered, with the figures that were judged."""
    lines = [
        f"disk     {readings.disk.free_bytes / 1e9:.0f} GB free of {readings.disk.total_bytes / 1e9:.0f} GB"
    ]
    if readings.stack is not None and readings.stack.is_up:
        lines.append(f"stack    {len(readings.stack.processes)} components, {len(readings.ports)} ports")
    database = readings.database
    if database is not None and database.why_away is None:
        lines.append(
            f"books    PostgreSQL {database.version_text}, answered in {database.answer_ms:.1f} ms, "
            f"{database.connections} of {database.max_connections} connections"
        )
        if database.hidden_connections:
            lines.append(
                f"         {database.hidden_connections} of them are other users', whose locks and long "
                "statements this user cannot see"
            )
    if readings.temporal is not None and readings.temporal.why_away is None:
        waiting = ", ".join(f"{queue.name} {queue.backlog} waiting" for queue in readings.temporal.queues)
        lines.append(f"queues   Temporal {readings.temporal.version}: {waiting}")
    return lines


def _counted(problems: int) -> str:
    return {0: "Nothing is wrong", 1: "One thing is wrong"}.get(problems, f"{problems} things are wrong")


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
