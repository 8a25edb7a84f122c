"""Commands for those who run the system: audit, export, faults, and the processes themselves."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.connection import ApiUrl, connect
from orchestrator.cli.output import AsJson, audit_report, console, echo, print_json
from orchestrator.errors import OrderSystemError, ServiceUnavailable, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.rest_client import Json, RestClient
from orchestrator.worker.kind import WorkerKind

faults = typer.Typer(help="Show or change what the simulated outside world does wrong.")

Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only orders of this run.")]


def register(app: typer.Typer) -> None:
    app.command()(audit)
    app.command()(export)
    app.add_typer(faults, name="faults")
    app.command()(worker)
    app.command()(api)


def audit(run: Run = None, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Prove the nine invariants over books, ledger and workflows; exits 4 when one is broken."""
    with connect(api_url) as client:
        report = _audited(client, run)
    if as_json:
        print_json(report)
    else:
        console.print(audit_report(report), soft_wrap=True)
    if not report["clean"]:
        raise typer.Exit(ExitCode.INVARIANT_BROKEN)


def _audited(client: RestClient, run: str | None) -> Json:
    """The report, with a count of the workflows compared so far while it is made."""
    with (
        console.status("auditing the books") as progress,
        client.stream("/audit", run_id=run, progress="true") as answer,
    ):
        for line in answer.iter_lines():
            told: Json = json.loads(line)
            if "report" in told:
                report: Json = told["report"]
                return report
            if "problem" in told:
                problem: Json = told["problem"]
                # A run that nobody knows is a mistyped one.
                raise (UsageError if problem["status"] == 404 else ServiceUnavailable)(problem["detail"])
            progress.update(f"{told['workflows_checked']} workflows compared")
    raise OrderSystemError("the API broke off the audit")


def export(
    csv: Annotated[Path, typer.Option("--csv", metavar="FILE", help="Where to write the latency CSV.")],
    run: Run = None,
    api_url: ApiUrl = None,
) -> None:
    """Write one row for each finished order: where its time went."""
    # Under another name first: a broken download must not look like a whole one.
    partial = csv.with_name(csv.name + ".partial")
    rows = -1
    try:
        with (
            connect(api_url) as client,
            client.stream("/latency.csv", run_id=run) as answer,
            partial.open("wb") as file,
        ):
            for piece in answer.iter_bytes():
                file.write(piece)
                rows += piece.count(b"\n")
        if run is not None and rows == 0:
            _must_be_known(run, api_url)
        os.replace(partial, csv)
    except OSError as error:
        raise UsageError(f"cannot write {csv}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    echo(f"{rows} orders in {csv}")


def _must_be_known(run: str, api_url: str | None) -> None:
    """Raises UsageError for a run that nobody knows: an empty file would pass for one without orders."""
    with connect(api_url) as client:
        _audited(client, run)


@faults.callback(invoke_without_command=True)
def _show_by_default(context: typer.Context, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    if context.invoked_subcommand is None:
        show(as_json, api_url)


@faults.command()
def show(as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show the profile in force."""
    with connect(api_url) as client:
        _show(client.get("/faults"), as_json)


@faults.command("set")
def set_profile(
    profile: Annotated[str, typer.Argument(help="none, assignment, lossy, slow, outage or custom.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed repeats the same faults.")] = 0,
    rates: Annotated[
        str | None, typer.Option("--rates", metavar="JSON", help="For custom: default and steps, as shown.")
    ] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Change the profile, at every worker within a second."""
    body: Json = {"profile": profile, "seed": seed}
    if rates is not None:
        try:
            body["rates"] = json.loads(rates)
        except ValueError as error:
            raise UsageError("--rates must be JSON") from error
    with connect(api_url) as client:
        _show(client.put("/faults", body), as_json)


def _show(in_force: Json, as_json: bool) -> None:
    if as_json:
        print_json(in_force)
        return
    since = f" since {in_force['since']}" if in_force["since"] else ""
    echo(f"{in_force['profile']}, seed {in_force['seed']}{since}")
    rates = in_force["rates"]
    for step, each in {"every step": rates["default"], **rates["steps"]}.items():
        named = ", ".join(
            f"{name} {share:g}" for name, share in each.items() if share and name != "slow_mean_ms"
        )
        echo(f"  {step}: {named or 'none'}")


def worker(
    kind: Annotated[WorkerKind, typer.Argument(help="Which task queue to serve.")],
    name: Annotated[str | None, typer.Option("--name", help="Its name in logs and events.")] = None,
) -> None:
    """Run a worker process until SIGINT or SIGTERM."""
    from orchestrator.processes import run_worker

    run_worker(kind, name)


def api() -> None:
    """Run the REST API until SIGINT or SIGTERM."""
    from orchestrator.processes import run_api

    run_api()
