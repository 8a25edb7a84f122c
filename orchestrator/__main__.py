"""`python -m orchestrator COMMAND`."""

from orchestrator.cli import main
from orchestrator.processes import end_at_once

if __name__ == "__main__":
    try:
        main()
    except SystemExit as ended:
        # A command that spoke to Temporal must end with its own code, too.
        end_at_once(ended.code if isinstance(ended.code, int) else 0)
