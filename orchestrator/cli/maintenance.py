"""Maintenance commands: retention, backup, restore, doctor."""

import asyncio
import re
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from orchestrator.cli.output import AsJson, console, echo, echo_step, print_json
from orchestrator.errors import ExitCode, UsageError
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from db.maintenance.retention import RetentionReport


def register(app: typer.Typer) -> None:
    app.command()(retention)
    app.command()(backup)
    app.command()(restore)
    app.command()(doctor)


def retention(
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="DAYS", help="For example 90d; EVENTS_KEEP_DAYS by default."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the orders; delete nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the events of old orders. Orders, payments, provider records and charts are kept."""
    settings = Settings.load()
    report = asyncio.run(_delete_expired(settings.order_database_url, _kept(keep, settings), dry_run=dry_run))
    if as_json:
        print_json({"dry_run": dry_run} | report.to_json())
        return
    verb = "Would delete" if dry_run else "Deleted"
    echo(f"{verb} the events of {report.orders:,} orders accepted before {report.cutoff:%Y-%m-%d %H:%M} UTC.")
    if report.cutoff == report.oldest_open_at:
        echo("Later orders keep their events: the order accepted then has no outcome yet.")


async def _delete_expired(url: str, keep: timedelta, *, dry_run: bool) -> "RetentionReport":
    from db.database import Database
    from db.maintenance.retention import delete_expired

    async with Database(url, max_size=1, application_name="retention") as database:
        return await delete_expired(database, keep, dry_run=dry_run)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not exist.")],
) -> None:
    """Back up the data of the running or stopped embedded stack into one file."""
    from orchestrator.embedded import Stack
    from orchestrator.operations.backup import back_up

    began = time.monotonic()
    with console.status("Backing up"):
        info = back_up(Stack(Settings.load()), file, echo_step)
    size = file.expanduser().stat().st_size / 1e6
    echo(f"{file}: {size:,.1f} MB, backup of the {info.stack} stack, in {time.monotonic() - began:.1f} s.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `orders backup` wrote.")],
    force: Annotated[
        bool, typer.Option("--force", help="Move existing data into another directory first.")
    ] = False,
) -> None:
    """Restore a backup into the ORDERS_HOME of a stopped stack."""
    from orchestrator.embedded import Stack
    from orchestrator.operations import backup

    settings = Settings.load()
    with console.status("Restoring"):
        info = backup.restore(Stack(settings), file, force=force, report=echo_step)
    echo(f"{settings.home} contains the data of {info.made_at}. Start the stack: make up.")
    echo("Its API keys are those of that time: a key that was revoked since then is valid again.")


def doctor(as_json: AsJson = False) -> None:
    """Check every component and report problems with advice. Exits 1 if there is a problem."""
    from orchestrator.operations.doctor import diagnose

    began = time.monotonic()
    with console.status("Checking"):
        report = asyncio.run(diagnose(Settings.load()))
    problems = sum(finding.severity == "problem" for finding in report.findings)
    if as_json:
        print_json({"healthy": not problems, "findings": [asdict(finding) for finding in report.findings]})
    else:
        for finding in report.findings:
            style = "red" if finding.severity == "problem" else "yellow"
            text = Text(f"{finding.severity:<9}", style=style).append(Text(finding.message, style="default"))
            console.print(text, soft_wrap=True)
            echo(f"         {finding.advice}")
        for line in report.measurements:
            echo(line)
        count = "No problems" if not problems else "1 problem" if problems == 1 else f"{problems} problems"
        echo(f"{count} found in {time.monotonic() - began:.1f} s.")
    if problems:
        raise typer.Exit(ExitCode.CRASHED)


def _kept(keep: str | None, settings: Settings) -> timedelta:
    if keep is None:
        if settings.events_keep_days is None:
            raise UsageError("Set --keep, for example 90d, or EVENTS_KEEP_DAYS.")
        return timedelta(days=settings.events_keep_days)
    match = re.fullmatch(r"([0-9]{1,5})d", keep)
    if match is None or int(match[1]) < 1:
        raise UsageError(f"--keep must be a number of days and at least 1d (for example 90d), not {keep}.")
    return timedelta(days=int(match[1]))
