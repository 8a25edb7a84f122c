"""Run the product's commands, in this process or as users run them."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.embedded.layout import PROJECT_ROOT, stack_environment
from orchestrator.settings import STACK_MARKER, Settings
from tests import secrets


@dataclass(frozen=True)
class CommandResult:
    exit_code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.exit_code == 0, self.err
        return json.loads(self.out)

    def refuses(self, exit_code: int, message: str) -> bool:
        """Assert this exit code and one sentence on stderr; return whether stdout is empty."""
        assert self.exit_code == exit_code, (self.out, self.err)
        assert message in self.err
        assert self.err.count("\n") == 1
        return self.out == ""


Command = Callable[..., CommandResult]


def commands_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return a function that runs commands in this process with these settings."""
    for name, value in stack_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(STACK_MARKER)

    def run(*arguments: str) -> CommandResult:
        return CommandResult(cli.run(list(arguments)), *capsys.readouterr())

    return run


@dataclass(frozen=True)
class CommandLine:
    """Runs `python -m orchestrator` as a process."""

    environment: dict[str, str]

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code and the output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator"),
            *arguments,
            env={"API_KEY": secrets.API_KEY} | self.environment,
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()
