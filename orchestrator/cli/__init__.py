"""The command line: `python -m orchestrator COMMAND`.

Commands about orders talk to the REST API and to nothing else; `up`, `worker` and `api` are the parts
themselves. An error is one sentence on stderr and an exit code of `orchestrator.cli.exit_codes`.
"""

import sys

import typer

from orchestrator.cli import keys as keys
from orchestrator.cli import maintenance as housekeeping
from orchestrator.cli import operations as operations
from orchestrator.cli import orders as orders
from orchestrator.cli import stack as stack
from orchestrator.cli import versions as versions
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.cli.output import complain
from orchestrator.errors import OrderSystemError, RequestMalformed, UsageError

app = typer.Typer(
    name="orchestrator",
    help="An order system that reaches every outcome within its limit, through faults and crashes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stack.register(app)
orders.register(app)
operations.register(app)
housekeeping.register(app)
keys.register(app)
versions.register(app)


def main() -> None:
    """Runs one command and ends the process with its exit code."""
    try:
        app(prog_name="python -m orchestrator")
    except (UsageError, RequestMalformed) as error:
        complain(str(error))
        sys.exit(ExitCode.WRONG_USAGE)
    except OrderSystemError as error:
        complain(str(error))
        sys.exit(ExitCode.CRASHED)
    except Exception as error:
        complain(f"this should not have happened ({type(error).__name__}): {error}")
        sys.exit(ExitCode.CRASHED)
