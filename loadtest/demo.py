"""`make demo`: the whole stack, sample orders under faults with live progress, a verdict, then it serves."""

import argparse
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

from rich.console import Console

from orchestrator.cli.stack import POLL_SECONDS, interrupt_on_signals
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.errors import OrderSystemError, UsageError
from orchestrator.exit_codes import ExitCode
from orchestrator.settings import Settings

ORDERS_PER_SECOND = 3.0
SECONDS = 20
TARGET = 0.95
FAULTS = "assignment"

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="stop the stack after the verdict")
    options = parser.parse_args()
    try:
        return _demo(Settings.load(), stop_afterwards=options.exit)
    except UsageError as error:
        console.print(str(error), style="red")
        return ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        console.print(f"The demo could not go on: {error}", style="red")
        return ExitCode.CRASHED


def _demo(settings: Settings, *, stop_afterwards: bool) -> int:
    stack = Stack(settings)
    is_ours = False
    with interrupt_on_signals():
        try:
            # However the demo ends, its stack ends with it; one that somebody else started stays up.
            is_ours = stack.up(bound=True, report=lambda sentence: console.print(f"  {sentence}"))
            code = _orders_and_verdict(stack.running_settings())
            _print_urls(stack.running_settings())
            if not stop_afterwards and code != ExitCode.WRONG_USAGE:
                code = ExitCode.PASSED
                console.print("\nServing until Ctrl-C.")
                _serve(stack)
        except KeyboardInterrupt:
            console.print("Stopped before the verdict.", style="red")
            code = ExitCode.CRASHED
        finally:
            if is_ours:
                stack.down()
    return code


def _serve(stack: Stack) -> None:
    """Returns upon Ctrl-C, or when somebody else has stopped the stack."""
    try:
        while stack.is_up():
            time.sleep(POLL_SECONDS)
        console.print("The stack was stopped from elsewhere.")
    except KeyboardInterrupt:
        console.print("Stopping.")


def _orders_and_verdict(settings: Settings) -> int:
    """Has the load tests drive the orders and judge them; returns the exit code of their verdict."""
    run_id = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    console.print(
        f"\n{ORDERS_PER_SECOND:g} orders a second for {SECONDS} s, while one of three outside calls fails "
        f"and one of three hangs (run {run_id})"
    )
    # Ctrl-C reaches the load test too, which then drains and judges what there is.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    load_test = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtest", "run", "--run-id", run_id, "--scenario", "start-only"),
            *("--rate", str(ORDERS_PER_SECOND), "--duration", f"{SECONDS}s", "--faults", FAULTS),
            *("--slo-target", str(TARGET), "--host", settings.api_url),
        ],
        cwd=PROJECT_ROOT,
    )
    try:
        return load_test.wait()
    except KeyboardInterrupt:
        # Whoever ends the demo alone: the run is drained and judged, and its faults are taken back.
        load_test.send_signal(signal.SIGINT)
        load_test.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _print_urls(settings: Settings) -> None:
    console.print(f"\nDashboard    {settings.local_url('dashboard')}")
    console.print(f"Load tests   {settings.local_url('locust')}")
    console.print(f"REST API     {settings.api_url}/docs")
    if settings.uses_embedded_temporal:
        console.print(f"Temporal UI  http://127.0.0.1:{settings.port('temporal_ui')}")


if __name__ == "__main__":
    sys.exit(main())
