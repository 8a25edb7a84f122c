"""Commands of the load tests. `run` becomes a Locust process with the same options."""

import inspect
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadtest.options import EXPECT_WORKERS_SECONDS, OPTIONS, RunOptions, command_line, new_run_id
from orchestrator.errors import ExitCode, OrderSystemError, UsageError

if TYPE_CHECKING:
    from db.runs import StoredRun
    from loadtest.proofs.capacity import Probe

# A command imports what only it needs: every run loads this module before Locust, which costs start-up time.

LOCUSTFILE = Path(__file__).with_name("locustfile.py")

app = typer.Typer(
    name="loadtest",
    help="Load tests of the order system through its REST API, each with a verdict.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run one command and exit with its exit code."""
    try:
        # Not in Typer's standalone mode, which prints a frame around an error; here an error is one sentence.
        code = app(sys.argv[1:] or ["--help"], prog_name="python -m loadtest", standalone_mode=False)
    except typer.TyperException as error:
        sentence, code = error.format_message(), error.exit_code
    except UsageError as error:
        sentence, code = str(error), ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        sentence, code = str(error), ExitCode.CRASHED
    except typer.Abort:
        sentence, code = "Interrupted.", ExitCode.CRASHED
    else:
        sys.exit(code)
    typer.secho(sentence, fg="red", err=True)
    sys.exit(code)


def load_test_options(
    *names: str, defaults: dict[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare options of the table `OPTIONS` on a Typer command, which receives them as keyword arguments."""

    def parameter(name: str) -> inspect.Parameter:
        option = OPTIONS[name]
        help_ = f"{option.help} One of: {', '.join(option.choices)}." if option.choices else option.help
        type_: type = bool if option.is_flag else str
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if option.is_flag else (defaults or {}).get(name, option.default),
            annotation=Annotated[type_, typer.Option(f"--{option.cli_name}", help=help_)],
        )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        parameters = [parameter(name) for name in names] + own
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ |= {each.name: each.annotation for each in parameters}
        return command

    return decorate


@app.command()
@load_test_options(*OPTIONS)
def run(
    *,
    host: Annotated[str, typer.Option(help="URL of the API; by default of this ORDERS_HOME's stack.")] = "",
    processes: Annotated[int, typer.Option(min=0, help="Number of generator processes.")] = 0,
    master: Annotated[bool, typer.Option("--master", help="Run as the master of remote workers.")] = False,
    worker: Annotated[bool, typer.Option("--worker", help="Run as a worker of a remote master.")] = False,
    expect_workers: Annotated[int, typer.Option(min=1, help="Workers that a master waits for.")] = 1,
    expect_workers_max_wait: Annotated[
        int, typer.Option(min=1, help="Seconds that a master waits for its workers.")
    ] = EXPECT_WORKERS_SECONDS,
    master_bind_host: Annotated[
        str, typer.Option(help="Address that a master listens on; by default BIND_ADDRESS.")
    ] = "",
    master_host: Annotated[str, typer.Option(help="Host of a worker's master.")] = "127.0.0.1",
    master_port: Annotated[int, typer.Option(help="Port of the master.")] = 5557,
    **values: Any,
) -> None:
    """Run one load test; the exit code is its verdict.

    0 passed, 1 crashed, 2 wrong usage, 3 limit breached, 4 invariant broken, 5 not proven, 6 invalid run.
    """
    options = RunOptions.parse(values)
    if not worker:
        # A generated run id too: the dashboard finds a running load test by the id on its command line.
        values["run_id"] = options.run_id
    values["host"] = host
    if processes:
        # A free port, since two runs on one machine must not share Locust's default port.
        port = _free_port()
        values |= {"processes": processes, "master_bind_port": port, "master_port": port}
        values["master_bind_host"] = "127.0.0.1"
    if master:
        _require_free_address(master_bind_host, master_port)
        values |= {"master": True, "master_bind_host": master_bind_host, "master_bind_port": master_port}
        values |= {"expect_workers": expect_workers, "expect_workers_max_wait": expect_workers_max_wait}
    if worker:
        values |= {"worker": True, "master_host": master_host, "master_port": master_port}
    become_locust(["--headless", "--only-summary", "--skip-log-setup", *command_line(values)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _require_free_address(host: str, port: int) -> None:
    from orchestrator.settings import Settings

    host = host or Settings.load().bind_address
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("" if host == "*" else host, port))
        except OSError as error:
            raise UsageError(
                f"The master cannot listen on {host}:{port} ({error.strerror}). Choose another --master-port "
                "or --master-bind-host."
            ) from None


def become_locust(arguments: list[str]) -> None:
    """Replace this process by Locust, whose gevent patches must come before any other import."""
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments])


@app.command()
@load_test_options(
    *("faults", "scenario", "slo_seconds", "slo_target", "seed"),
    defaults={"faults": "assignment", "scenario": "start-only"},
)
def capacity(
    *,
    min_rate: Annotated[float, typer.Option(help="The first rate, orders per second.")] = 2.0,
    max_rate: Annotated[float, typer.Option(help="The highest rate to try.")] = 100.0,
    precision: Annotated[float, typer.Option(help="Precision of the result, as a share of the rate.")] = 0.1,
    duration: Annotated[str, typer.Option(help="Minimum duration of each probe.")] = "30s",
    host: Annotated[str, typer.Option(help="URL of the API; by default of this ORDERS_HOME's stack.")] = "",
    search_id: Annotated[
        str, typer.Option("--id", help="A name for the search; by default made from the current time.")
    ] = "",
    **values: Any,
) -> None:
    """Search for the highest rate at which the limit is met.

    0 found, 2 wrong usage, 3 the lowest rate is not held, 4 a probe broke an invariant, 5 not proven or
    interrupted, 6 a probe was invalid.
    """
    from loadtest.proofs.capacity import SearchPlan, run_probe, run_search, write_results
    from orchestrator.settings import Settings

    # A shell starts background jobs with SIGINT ignored; the search and its probes need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not 0 < min_rate <= max_rate:
        raise UsageError("min-rate must be more than 0 and at most max-rate.")
    if not 0 < precision < 1:
        raise UsageError(f"precision must be between 0 and 1 (for example 0.1), not {precision:g}.")
    seconds = OPTIONS["duration"].value({"duration": duration})
    name = search_id or new_run_id().replace("run-", "capacity-")
    options = RunOptions.parse(values | {"run_id": f"{name}-00"})
    arguments = command_line(values | {"host": host})
    reports = Settings.load().home / "reports"
    if any((reports / used).exists() for used in (name, f"{name}-1")):
        raise UsageError(f"Search id {name} was used before; choose another.")
    plan = SearchPlan(min_rate, max_rate, precision, seconds, options.slo_target)

    def probe(number: int, rate: float) -> "Probe":
        probe_arguments = [*arguments, f"--duration={plan.probe_seconds(rate)}s"]
        return run_probe(probe_arguments, reports, f"{name}-{number}", rate)

    typer.echo(
        f"search {name}: {options.scenario}, {values['faults']} faults, "
        f"{options.slo_target:g} within {options.slo_seconds:g} s"
    )
    result = run_search(plan, probe, _print_probe)
    if result.probes:
        typer.echo(f"capacity  {result}")
        try:
            files = write_results(result, plan, options.slo_seconds, reports / name)
        except OSError as error:
            raise OrderSystemError(f"Cannot write {error.filename or reports}: {error.strerror}.") from error
        for file in files:
            typer.echo(f"wrote     {file}")
    if result.stop_reason:
        typer.echo(f"ended     {result.stop_reason}")
    raise typer.Exit(result.exit_code)


def _print_probe(probe: "Probe") -> None:
    p99 = "-" if probe.p99_ms is None else f"{probe.p99_ms / 1000:.2f} s"
    typer.echo(
        f"{probe.rate:7.2f}/s  {probe.verdict:<16} {probe.late} late of {probe.orders} "
        f"(at most {probe.late_bound:.2%})  p99 {p99}"
    )


@app.command()
def compare(
    run_id: Annotated[str, typer.Argument(help="The run to compare.")],
    earlier: Annotated[str, typer.Argument(help="The baseline: an earlier run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two stored runs: better, worse, or no difference shown."""
    from loadtest.verdict.comparison import compare_runs, comparison_text, times_of
    from orchestrator.settings import Settings

    database_url = Settings.load().order_database_url
    run, baseline = (_stored_run(database_url, each) for each in (run_id, earlier))
    comparison = compare_runs(run, times_of(run), earlier, baseline)
    typer.echo(
        json.dumps(comparison, indent=2) if as_json else comparison_text(comparison).replace("; ", "\n")
    )


def _stored_run(database_url: str, run_id: str) -> "StoredRun":
    from db import runs
    from loadtest.preflight import require_database

    with require_database():
        run = runs.find(database_url, run_id)
    if run is None or not any(ms is not None for ms in run.completion_ms or ()):
        raise UsageError(f"There is no run {run_id} with finished orders.")
    return run
