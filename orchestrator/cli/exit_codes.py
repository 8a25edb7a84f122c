"""What the exit code of a command means; the same for the load generator."""

from enum import IntEnum


class ExitCode(IntEnum):
    PASSED = 0
    CRASHED = 1
    WRONG_USAGE = 2
    LIMIT_BREACHED = 3
    INVARIANT_BROKEN = 4
    NOT_PROVEN = 5
    INVALID_RUN = 6
