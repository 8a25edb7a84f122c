"""Few examples of everything; `make fuzz` makes 200 an operation."""

import pytest

from tests.fuzz.fuzzing import fuzz, target


@pytest.mark.stack
@pytest.mark.proof
def test_nothing_that_anybody_sends_makes_an_error_or_an_undocumented_answer() -> None:
    with target() as found:
        done = fuzz(found, "--max-examples", "5", "--seed", "1")
    assert done.returncode == 0, done.stdout
