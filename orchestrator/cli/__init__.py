"""The command line: `orders COMMAND`, or `python -m orchestrator COMMAND`.

Commands about orders use the REST API only. A command that fails prints one sentence to stderr and exits with
a code of `orchestrator.errors.ExitCode`.
"""

import os
import sys
from typing import NoReturn

import typer

from orchestrator import output_file
from orchestrator.cli import keys as keys
from orchestrator.cli import maintenance as maintenance
from orchestrator.cli import orders as orders
from orchestrator.cli import reconciler as reconciler
from orchestrator.cli import runs as runs
from orchestrator.cli import stack as stack
from orchestrator.cli import system as system
from orchestrator.cli.output import print_error
from orchestrator.errors import ExitCode, OrderSystemError, RequestMalformed, UsageError
from orchestrator.processes import exit_immediately

app = typer.Typer(
    name="orders",
    help="An order system on Temporal. Every order reaches one outcome before its deadline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (stack, orders, runs, system, maintenance, reconciler, keys):
    module.register(app)


def main() -> NoReturn:
    """Run the command in `sys.argv` and exit with its exit code."""
    # Without this, the Temporal SDK can abort the process at interpreter shutdown, with another exit code.
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        # A closed pipe, for example of `| head`, needs no message.
        if code == ExitCode.PASSED and not isinstance(error, BrokenPipeError):
            print_error(f"Cannot write the output: {error.strerror}.")
        # At exit, Python flushes the rest of the output, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or ExitCode.CRASHED
    exit_immediately(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        app(arguments, prog_name="orders")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else ExitCode.PASSED
    except (UsageError, RequestMalformed) as error:
        print_error(str(error))
        return ExitCode.WRONG_USAGE
    except OrderSystemError as error:
        print_error(str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in output_file.DISK_FULL:
            print_error(f"Cannot write {error.filename or 'the output'}: {error.strerror}.")
        else:
            print_error(f"Internal error ({type(error).__name__}): {error}")
    return ExitCode.CRASHED
