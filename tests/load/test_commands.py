"""The command line of the load tests."""

import pytest
from typer.testing import CliRunner

from loadtest import commands


def test_a_generated_run_id_is_on_the_command_line_of_locust(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[str] = []
    monkeypatch.setattr(commands, "become_locust", arguments.extend)
    assert CliRunner().invoke(commands.app, ["run", "--rate=2"]).exit_code == 0
    assert [each for each in arguments if each.startswith("--run-id=run-")]
    arguments.clear()
    assert CliRunner().invoke(commands.app, ["run", "--worker"]).exit_code == 0
    assert not [each for each in arguments if each.startswith("--run-id")]
