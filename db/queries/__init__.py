"""Named SQL statements. In the files of this folder, a line `-- name: x` starts the statement x."""

import re
from functools import cache
from pathlib import Path
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def load(file_name: str) -> dict[str, LiteralString]:
    """Return the statements of `db/queries/FILE_NAME`, by name.

    Raises FileNotFoundError for an unknown file and ValueError for a duplicate name.
    """
    text = (Path(__file__).parent / file_name).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{file_name} names a statement twice")
    # The text is part of the program, not user input, as psycopg requires of a LiteralString.
    return {
        name: cast(LiteralString, body.strip().rstrip(";")) for name, body in zip(names, bodies, strict=True)
    }
