"""Commands about stored load tests. `python -m loadtest run` starts one."""

import re
from typing import Annotated

import typer

from db.domain import ORDER_ID_PATTERN
from orchestrator.cli import output
from orchestrator.cli.connection import ApiUrl, connect
from orchestrator.cli.output import AsJson, echo, show
from orchestrator.errors import UsageError
from orchestrator.rest_client import Json

runs = typer.Typer(help="List, label and delete stored load tests.", no_args_is_help=True)


def _valid_run_id(run_id: str) -> str:
    # The id becomes part of a URL path.
    if not re.fullmatch(ORDER_ID_PATTERN, run_id):
        raise UsageError(f"{run_id!r} is not a run id: use 1 to 64 letters, digits, '-' or '_'.")
    return run_id


RunId = Annotated[str, typer.Argument(metavar="RUN", callback=_valid_run_id)]


def register(app: typer.Typer) -> None:
    app.add_typer(runs, name="runs")


@runs.command("list")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="Number of runs.")] = 20,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """List load tests, newest first."""
    with connect(api_url) as api:
        response = api.get("/runs", limit=limit)
    show(response, as_json, output.run_table(response["runs"]))


@runs.command("show")
def show_run(run_id: RunId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show a load test and its result."""
    with connect(api_url) as api:
        response = api.get(f"/runs/{run_id}")
    show(response, as_json, output.run_table([response]))
    if response["notes"] and not as_json:
        echo(response["notes"])


@runs.command("change")
def change_run(
    run_id: RunId,
    label: Annotated[str | None, typer.Option(help="A name for the run; an empty text removes it.")] = None,
    notes: Annotated[str | None, typer.Option(help="Remarks.")] = None,
    baseline: Annotated[
        bool | None, typer.Option("--baseline/--no-baseline", help="Whether other runs are compared with it.")
    ] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Change the label or the notes of a load test, or make it the baseline."""
    given: Json = {"notes": notes, "is_baseline": baseline}
    changes = {name: value for name, value in given.items() if value is not None}
    if label is not None:
        changes["label"] = label or None
    if not changes:
        raise UsageError("Nothing to change: use --label, --notes, --baseline or --no-baseline.")
    with connect(api_url) as api:
        response = api.patch(f"/runs/{run_id}", changes)
    show(response, as_json, output.run_table([response]))


@runs.command("delete")
def delete_run(run_id: RunId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Delete a load test with its statistics and verdict. Its orders and report files stay."""
    with connect(api_url) as api:
        response = api.delete(f"/runs/{run_id}")
    show(response, as_json, f"{run_id}: {response['message']}")
