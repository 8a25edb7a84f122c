"""The programs that come as packages, found beside the interpreter."""

import shutil
import sys
from pathlib import Path

from orchestrator.errors import StackError


def packaged_program(name: str) -> str:
    """The path of a program installed into this environment. Raises StackError when it is not there."""
    beside_interpreter = Path(sys.executable).parent / name
    if beside_interpreter.exists():
        return str(beside_interpreter)
    found = shutil.which(name)
    if found is None:
        raise StackError(f"The program {name} is not installed. Run `make setup`.")
    return found
