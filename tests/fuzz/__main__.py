"""`python -m tests.fuzz [OPTION ...]`: all checks of Schemathesis, 200 examples per operation.

Passes options to Schemathesis, and exits with its exit code: 0 when it found nothing.
"""

import sys

from tests.fuzz.fuzzing import fuzz, target

if __name__ == "__main__":
    with target() as api:
        result = fuzz(api, "--max-examples", "200", *sys.argv[1:])
    print(result.stdout)  # noqa: T201
    sys.exit(result.returncode)
