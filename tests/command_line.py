"""The product's commands, run as users run them."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass

from orchestrator.embedded.layout import PROJECT_ROOT


@dataclass(frozen=True)
class CommandLine:
    """`python -m orchestrator`, run as users run it."""

    environment: dict[str, str]

    async def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code and what was printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator"),
            *arguments,
            env=self.environment,
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, printed.decode()
