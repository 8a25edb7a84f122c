"""`make demo`: starts the stack, runs one load test under faults, and serves until Ctrl-C."""

import argparse
import signal
import subprocess
import sys
from datetime import UTC, datetime

from rich.console import Console

from loadtest.options import command_line
from orchestrator.cli.stack import echo_addresses, interrupt_on_signals, wait_for_end
from orchestrator.embedded import Stack
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.errors import ExitCode, OrderSystemError, UsageError
from orchestrator.settings import Settings

LOAD_TEST = {
    "scenario": "start-only",
    "rate": 3,
    "duration": "20s",
    "faults": "assignment",
    # Temporal's UI shows every step and retry.
    "execution": "visible",
    "slo_target": 0.95,
}
"""60 orders are enough to prove a target of 0.95."""

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="stop the stack after the verdict")
    options = parser.parse_args()
    try:
        return _demo(Settings.load(), exit_after_verdict=options.exit)
    except UsageError as error:
        console.print(str(error), style="red")
        return ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        console.print(f"The demo failed: {error}", style="red")
        return ExitCode.CRASHED


def _demo(settings: Settings, *, exit_after_verdict: bool) -> int:
    stack = Stack(settings)
    was_started = has_verdict = False
    with interrupt_on_signals() as raise_if_interrupted:
        try:
            # False if the stack was already running. Then the demo does not stop it.
            was_started = stack.up(bound=True, report=lambda sentence: console.print(f"  {sentence}"))
            code = _run_load_test(stack.running_settings())
            echo_addresses(stack)
            if not exit_after_verdict and code != ExitCode.WRONG_USAGE:
                code = ExitCode.PASSED
                has_verdict = True
                console.print("\nServing until Ctrl-C.")
                wait_for_end(stack, raise_if_interrupted)
        except KeyboardInterrupt:
            if has_verdict:
                console.print("Stopping.")
            else:
                console.print("Stopped before the verdict.", style="red")
                code = ExitCode.CRASHED
        finally:
            if was_started:
                stack.down()
    return code


def _run_load_test(settings: Settings) -> int:
    """Run the load test in a separate process, and return the exit code of its verdict."""
    options = LOAD_TEST | {"run_id": f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}", "host": settings.api_url}
    console.print(
        f"\n{LOAD_TEST['rate']} orders per second for {LOAD_TEST['duration']}; one third of the calls to "
        f"simulated services fails and one third hangs (run {options['run_id']})"
    )
    # Ctrl-C interrupts the load test too; it then drains and prints its verdict.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    load_test = subprocess.Popen(
        [sys.executable, "-m", "loadtest", "run", *command_line(options)], cwd=PROJECT_ROOT
    )
    try:
        return load_test.wait()
    except KeyboardInterrupt:
        # SIGTERM or SIGHUP was sent to the demo alone.
        load_test.send_signal(signal.SIGINT)
        load_test.wait()
        raise
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
