"""Exit codes of the command line, the load tests and the proofs."""

from enum import IntEnum


class ExitCode(IntEnum):
    PASSED = 0
    CRASHED = 1
    WRONG_USAGE = 2
    LIMIT_BREACHED = 3
    INVARIANT_BROKEN = 4
    NOT_PROVEN = 5
    INVALID_RUN = 6

    @property
    def text(self) -> str:
        """The name as it is printed, for example "limit breached"."""
        return self.name.lower().replace("_", " ")
