"""The commands of the load tests. `run` becomes Locust, with the same options; see loadtest/locustfile.py."""

import itertools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadtest.options import (
    EXPECT_WORKERS_SECONDS,
    Arrivals,
    RunOptions,
    Scenario,
    new_run_id,
    parse_duration,
)
from orchestrator.errors import DatabaseError, OrderSystemError, UsageError
from orchestrator.exit_codes import ExitCode

if TYPE_CHECKING:
    from db.runs import StoredRun
    from loadtest.proofs.capacity import Probe

# What only one command needs is loaded by that command: `run` is loaded before each run of Locust, and would
# take as long again to start.

LOCUSTFILE = Path(__file__).with_name("locustfile.py")

app = typer.Typer(
    name="loadtest",
    help="Load on the order system, through its REST API, and the verdict on how it held.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs one command and ends the process with its exit code."""
    try:
        # It would draw a frame around each complaint; here it is one sentence, whoever has it.
        code = app(sys.argv[1:] or ["--help"], prog_name="python -m loadtest", standalone_mode=False)
    except typer.TyperException as error:
        sentence, code = error.format_message(), error.exit_code
    except UsageError as error:
        sentence, code = str(error), ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        sentence, code = str(error), ExitCode.CRASHED
    except typer.Abort:
        sentence, code = "interrupted", ExitCode.CRASHED
    else:
        sys.exit(code)
    typer.secho(sentence, fg="red", err=True)
    sys.exit(code)


@app.command()
def run(
    scenario: Annotated[str, typer.Option(help=f"One of: {', '.join(Scenario)}.")] = Scenario.MIXED.value,
    rate: Annotated[str, typer.Option(help="Orders a second.")] = "5",
    duration: Annotated[str, typer.Option(help="How long orders are sent: 30s, 5m, 1m30s.")] = "60s",
    stages: Annotated[
        str, typer.Option(help="Instead of both: 30s@2,60s@10 (steps), 30s@2..10 (a ramp).")
    ] = "",
    arrivals: Annotated[str, typer.Option(help=f"One of: {', '.join(Arrivals)}.")] = Arrivals.CONSTANT.value,
    users: Annotated[str, typer.Option(help="How many users a closed loop has.")] = "",
    faults: Annotated[str, typer.Option(help="Fault profile during the run; put back afterwards.")] = "",
    seed: Annotated[str, typer.Option(help="Of faults, arrivals, and what is done with which order.")] = "1",
    chaos: Annotated[str, typer.Option(help="'20s kill order-worker, 40s restart postgres'.")] = "",
    run_id: Annotated[str, typer.Option(help="A name for the run; made from the time by default.")] = "",
    slo_seconds: Annotated[str, typer.Option(help="The limit, counted from acceptance.")] = "15",
    slo_target: Annotated[str, typer.Option(help="Share of orders that must be within the limit.")] = "0.99",
    drain_seconds: Annotated[
        str, typer.Option(help="How long orders in flight are waited for: the limit at least.")
    ] = "30",
    compare: Annotated[str, typer.Option(help="The id of an earlier run to compare with.")] = "",
    stop_when_hopeless: Annotated[bool, typer.Option(help="End once the target cannot be met.")] = False,
    shed_ok: Annotated[bool, typer.Option(help="Count orders that are turned away (429) apart.")] = False,
    host: Annotated[str, typer.Option(help="The API; by default the one of this ORDERS_HOME's stack.")] = "",
    processes: Annotated[int, typer.Option(min=0, help="Share the rate among so many processes.")] = 0,
    master: Annotated[bool, typer.Option("--master", help="Be the master of workers elsewhere.")] = False,
    worker: Annotated[bool, typer.Option("--worker", help="Be a worker of a master elsewhere.")] = False,
    expect_workers: Annotated[int, typer.Option(min=1, help="How many workers a master waits for.")] = 1,
    expect_workers_max_wait: Annotated[
        int, typer.Option(min=1, help="For how many seconds, before it gives up.")
    ] = EXPECT_WORKERS_SECONDS,
    master_bind_host: Annotated[
        str, typer.Option(help="Where a master listens for its workers; by default BIND_ADDRESS.")
    ] = "",
    master_host: Annotated[str, typer.Option(help="Where a worker finds its master.")] = "127.0.0.1",
    master_port: Annotated[int, typer.Option(help="The port of the master.")] = 5557,
) -> None:
    """Run one load test and end with the exit code of its verdict.

    0 passed, 1 crashed, 2 wrong usage, 3 limit breached, 4 invariant broken, 5 not proven, 6 invalid run.
    """
    given = {
        "scenario": scenario, "rate": rate, "duration": duration, "stages": stages, "arrivals": arrivals,
        "faults": faults, "seed": seed, "chaos": chaos, "run-id": run_id, "slo-seconds": slo_seconds,
        "slo-target": slo_target, "drain-seconds": drain_seconds, "compare": compare,
        "stop-when-hopeless": "yes" if stop_when_hopeless else "", "shed-ok": "yes" if shed_ok else "",
    }  # fmt: skip
    # Refused here if it can be, before Locust is loaded.
    options = RunOptions.parse(
        {name.replace("-", "_"): value for name, value in given.items()} | {"users": users}
    )
    if not worker:
        # Also one that was made up: whoever looks at the processes can tell which run this is.
        given["run-id"] = options.run_id
    words = [f"--{name}={value}" for name, value in given.items() if value]
    if users:
        words.append(f"--users={users}")
    if host:
        words.append(f"--host={host}")
    if processes:
        # Two runs on one machine must not meet on Locust's usual port.
        port = _free_port()
        words += [f"--processes={processes}", f"--master-bind-port={port}", f"--master-port={port}"]
        words += ["--master-bind-host=127.0.0.1"]
    if master:
        words += [f"--master-bind-host={master_bind_host}"] if master_bind_host else []
        words += ["--master", f"--expect-workers={expect_workers}", f"--master-bind-port={master_port}"]
        words += [f"--expect-workers-max-wait={expect_workers_max_wait}"]
    if worker:
        words += ["--worker", f"--master-host={master_host}", f"--master-port={master_port}"]
    become_locust(["--headless", "--only-summary", "--skip-log-setup", *words])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def become_locust(words: list[str]) -> None:
    """Never returns: this process becomes Locust, which needs its patches before anything else is loaded."""
    os.execv(sys.executable, [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *words])


@app.command()
def capacity(
    faults: Annotated[str, typer.Option(help="Fault profile during the probes.")] = "assignment",
    scenario: Annotated[
        str, typer.Option(help=f"One of: {', '.join(Scenario)}.")
    ] = Scenario.START_ONLY.value,
    least: Annotated[float, typer.Option(help="The rate to begin with, orders a second.")] = 2.0,
    most: Annotated[float, typer.Option(help="The highest rate to try.")] = 100.0,
    precision: Annotated[float, typer.Option(help="How close to search, as a share of the rate.")] = 0.1,
    duration: Annotated[str, typer.Option(help="How long each probe is, at least.")] = "30s",
    slo_seconds: Annotated[float, typer.Option(help="The limit, counted from acceptance.")] = 15.0,
    slo_target: Annotated[float, typer.Option(help="Share of orders that must be within the limit.")] = 0.99,
    seed: Annotated[int, typer.Option(help="Of faults, arrivals, and what is done with which order.")] = 1,
    host: Annotated[str, typer.Option(help="The API; by default the one of this ORDERS_HOME's stack.")] = "",
    search_id: Annotated[str, typer.Option("--id", help="A name for the search; made from the time.")] = "",
) -> None:
    """Search for the highest rate at which the limit is met.

    0 found, 2 wrong usage, 3 not even the least rate is held, 4 a probe broke an invariant, 5 ended before
    the answer was clear, 6 a probe was invalid twice.
    """
    from loadtest.proofs import capacity as searching
    from orchestrator.settings import Settings

    # Also where a shell started it in the background, with SIGINT ignored: the probes hear it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not 0 < least <= most:
        raise UsageError("least must be more than 0 and not more than most")
    if not 0 < precision < 1:
        raise UsageError("precision must be between 0 and 1")
    seconds = parse_duration(duration)
    name = search_id or new_run_id().replace("run-", "capacity-")
    common = {
        "faults": faults, "scenario": scenario, "slo-seconds": slo_seconds, "slo-target": slo_target,
        "seed": seed, "host": host,
    }  # fmt: skip
    RunOptions.parse(
        {key.replace("-", "_"): value for key, value in common.items()} | {"run_id": f"{name}-00"}
    )
    reports = Settings.load().home / "reports"
    if any((reports / used).exists() for used in (name, f"{name}-1")):
        raise UsageError(f"search id {name} was used before; choose another")
    plan = searching.Search(least, most, precision, seconds, slo_target)
    numbers = itertools.count(1)
    probes: list[Probe] = []
    api_url = host or Settings.load().api_url

    def probe(rate: float, late: int) -> "Probe":
        if probes:
            searching.wait_until_healthy(api_url)
        words = [f"--{key}={value}" for key, value in common.items() if value != ""]
        words += [f"--duration={plan.probe_seconds(rate, late)}s", "--stop-when-hopeless"]
        return searching.run_probe(words, reports, f"{name}-{next(numbers)}", rate)

    typer.echo(f"search {name}: {scenario}, {faults} faults, {slo_target:g} within {slo_seconds:g} s")

    def tell(made: "Probe") -> None:
        probes.append(made)
        _tell_probe(made)

    broken_off: str | None = None
    try:
        searching.search(plan, probe, tell, lambda: time.sleep(searching.RECOVERY_SECONDS))
    except KeyboardInterrupt:
        broken_off = "interrupted"
    except OrderSystemError as error:
        # What the others have shown is known all the same.
        if not probes:
            raise
        broken_off = f"the next probe was not judged: {error}"
    if not probes:
        typer.echo("ended     interrupted before the first probe could be judged")
        raise typer.Exit(ExitCode.NOT_PROVEN)
    typer.echo(f"capacity  {searching.in_words(probes, least)}")
    for file in searching.write(probes, plan, slo_seconds, reports / name):
        typer.echo(f"wrote     {file}")
    last = probes[-1]
    if ended := broken_off or last.ends_the_search:
        typer.echo(f"ended     {ended}")
        early = broken_off is not None or last.was_interrupted
        raise typer.Exit(ExitCode.NOT_PROVEN if early else last.exit_code)
    if searching.capacity_of(probes) is None:
        was_breached = last.finding is searching.Finding.BREACHED
        raise typer.Exit(ExitCode.LIMIT_BREACHED if was_breached else ExitCode.NOT_PROVEN)


def _tell_probe(probe: "Probe") -> None:
    p99 = "-" if probe.p99_ms is None else f"{probe.p99_ms / 1000:.2f} s"
    typer.echo(
        f"{probe.rate:7.2f}/s  {probe.finding:<9}  {probe.verdict:<16} {probe.late} late of {probe.orders} "
        f"(at most {probe.late_bound:.2%})  p99 {p99}"
    )


@app.command()
def compare(
    run_id: Annotated[str, typer.Argument(help="The run to judge.")],
    earlier: Annotated[str, typer.Argument(help="The run to hold it against.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set two stored runs beside each other: better, worse, or no difference shown."""
    from loadtest.verdict.comparison import compare_runs, comparison_text, times_of
    from orchestrator.settings import Settings

    database = Settings.load().order_database_url
    run, baseline = (_stored(database, each) for each in (run_id, earlier))
    found = compare_runs(run, times_of(run), earlier, baseline)
    typer.echo(json.dumps(found, indent=2) if as_json else comparison_text(found).replace("; ", "\n"))


def _stored(database: str, run_id: str) -> "StoredRun":
    from db import runs

    try:
        found = runs.find(database, run_id)
    except DatabaseError:
        raise UsageError("no database answers where runs are stored; is DATABASE_URL right?") from None
    if found is None or not found.completion_ms:
        raise UsageError(f"there is no run {run_id} with finished orders")
    return found
