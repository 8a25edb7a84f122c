"""A short fuzz test; `make fuzz` runs 200 examples per operation."""

import pytest

from tests.fuzz.fuzzing import fuzz, target


@pytest.mark.stack
@pytest.mark.proof
def test_no_request_causes_a_server_error_or_an_undocumented_response() -> None:
    with target() as api:
        result = fuzz(api, "--max-examples", "5", "--seed", "1")
    assert result.returncode == 0, result.stdout
