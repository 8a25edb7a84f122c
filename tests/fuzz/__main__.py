"""`python -m tests.fuzz [OPTION ...]`: all of Schemathesis's checks, 200 examples an operation, stateful too.

Further options are Schemathesis's own. Ends with its exit code: 0 when nothing was found.
"""

import sys

from tests.fuzz.fuzzing import fuzz, target

if __name__ == "__main__":
    with target() as found:
        done = fuzz(found, "--max-examples", "200", *sys.argv[1:])
    print(done.stdout)  # noqa: T201
    sys.exit(done.returncode)
