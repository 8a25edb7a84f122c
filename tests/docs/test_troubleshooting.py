"""Every message on the troubleshooting pages is one that the product can print."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.embedded.layout import PROJECT_ROOT
from tests.docs.pages import CODE, DOCS, rows

PLACEHOLDER = "…"


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return PLACEHOLDER


def literals(file: Path) -> Iterator[str]:
    """Every text of a module, with a placeholder for each expression inside an f-string."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.JoinedStr | ast.Constant):
            yield " ".join(text_of(node).split())


def makefile_messages() -> Iterator[str]:
    for message in re.findall(r'echo "(.*)" >&2', (PROJECT_ROOT / "Makefile").read_text()):
        yield re.sub(r"\$\(\w+\)", PLACEHOLDER, message)


def test_every_message_exists() -> None:
    folders = [PROJECT_ROOT / name for name in ("db", "orchestrator", "loadtest", "dashboard")]
    texts = {text for folder in folders for file in folder.rglob("*.py") for text in literals(file)}
    texts.update(makefile_messages())
    pages = [(DOCS / name).read_text() for name in ("troubleshooting.md", "troubleshooting-start.md")]
    messages = [CODE.findall(cells[0])[0] for page in pages for cells in rows(page)]
    assert len(messages) >= 40
    assert [message for message in messages if not any(message in text for text in texts)] == []
