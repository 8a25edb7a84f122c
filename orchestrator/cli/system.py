"""Commands of the whole system: audit, export, faults, and its long-running processes."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Annotated

import typer

from orchestrator import output_file
from orchestrator.cli.connection import ApiUrl, connect
from orchestrator.cli.output import AsJson, audit_report, console, echo, print_json
from orchestrator.errors import ExitCode, OrderSystemError, RunUnknown, UsageError
from orchestrator.rest_client import Json, RestClient
from orchestrator.worker import WorkerKind

faults = typer.Typer(help="Show or change the fault profile of the simulated gateways.")

Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only orders of this run.")]


def register(app: typer.Typer) -> None:
    app.command()(audit)
    app.command()(export)
    app.add_typer(faults, name="faults")
    app.command()(worker)
    app.command()(api)


def audit(run: Run = None, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Check the nine invariants on database, provider records and workflows. Exits 4 on a violation."""
    with connect(api_url) as client:
        report = _audit(client, run)
    if as_json:
        print_json(report)
    else:
        console.print(audit_report(report), soft_wrap=True)
    if not report["clean"]:
        raise typer.Exit(ExitCode.INVARIANT_BROKEN)


def _audit(client: RestClient, run: str | None) -> Json:
    """Return the audit report. Raises UsageError for an unknown run."""
    with console.status("Auditing"):
        try:
            return client.audit(run)
        except RunUnknown as error:
            raise UsageError(str(error)) from error


def export(
    csv: Annotated[
        Path, typer.Option("--csv", metavar="FILE", help="The CSV file to write; - is standard output.")
    ],
    run: Run = None,
    api_url: ApiUrl = None,
) -> None:
    """Write the latency CSV: one row for each finished order, with the time of each step."""
    with connect(api_url) as client:
        is_stream = str(csv) == "-" or output_file.descriptor_of(csv) is not None
        try:
            with nullcontext(sys.stdout.buffer) if str(csv) == "-" else output_file.opened(csv) as file:
                orders = _download(client, run, file)
                file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            failure = OrderSystemError if error.errno in output_file.DISK_FULL else UsageError
            name = "the output" if str(csv) == "-" else csv
            raise failure(f"Cannot write {name}: {error.strerror}.") from error
    if not is_stream:
        echo(f"{orders} orders in {csv}")


def _download(client: RestClient, run: str | None, file: IO[bytes]) -> int:
    """Write the CSV to `file` and return the number of orders. Raises UsageError for an unknown run."""
    orders = -1
    with client.stream("/latency.csv", run_id=run) as response:
        for chunk in response.iter_bytes():
            file.write(chunk)
            orders += chunk.count(b"\n")
    if run is not None and orders == 0:
        # Only the audit distinguishes an unknown run from one without finished orders.
        _audit(client, run)
    return orders


@faults.callback(invoke_without_command=True)
def _show_by_default(context: typer.Context, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    if context.invoked_subcommand is None:
        show(as_json, api_url)


@faults.command()
def show(as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show the active fault profile."""
    with connect(api_url) as client:
        _show(client.get("/faults"), as_json)


@faults.command("set")
def set_profile(
    profile: Annotated[str, typer.Argument(help="none, assignment, lossy, slow, outage or custom.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed produces the same faults.")] = 0,
    rates: Annotated[
        str | None,
        typer.Option(
            "--rates",
            metavar="JSON",
            help="Rates of a custom profile, in the format of `orders faults --json`.",
        ),
    ] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Set the fault profile. Every worker applies it within a second."""
    body: Json = {"profile": profile, "seed": seed}
    if rates is not None:
        try:
            body["rates"] = json.loads(rates)
        except ValueError as error:
            raise UsageError("--rates must be JSON.") from error
    with connect(api_url) as client:
        _show(client.put("/faults", body), as_json)


def _show(active: Json, as_json: bool) -> None:
    if as_json:
        print_json(active)
        return
    since = f" since {active['since']}" if active["since"] else ""
    echo(f"{active['profile']}, seed {active['seed']}{since}")
    if active["unavailable"]:
        echo(f"The profile has no effect: {active['unavailable']}")
    rates = active["rates"]
    for step, each in {"every step": rates["default"], **rates["steps"]}.items():
        named = ", ".join(
            f"{name} {share:g}" for name, share in each.items() if share and name != "slow_mean_ms"
        )
        echo(f"  {step}: {named or 'none'}")


def worker(
    kind: Annotated[WorkerKind, typer.Argument(help="The task queues to serve.")],
    name: Annotated[str | None, typer.Option("--name", help="The name in logs and events.")] = None,
) -> None:
    """Run a worker process until SIGINT or SIGTERM."""
    from orchestrator.processes import run_worker

    run_worker(kind, name)


def api() -> None:
    """Run the REST API until SIGINT or SIGTERM."""
    from orchestrator.processes import run_api

    run_api()
