"""How a load test ends, for scripts."""

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
    def words(self) -> str:
        return self.name.lower().replace("_", " ")
