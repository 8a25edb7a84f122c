"""Every command that a page shows exists, with the options that the page shows."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from loadtest.commands import app as load_tests
from orchestrator.cli import app as orders
from orchestrator.embedded.layout import PROJECT_ROOT
from tests.docs.pages import CODE, FENCED, PAGES, page_id

APPS = {"orchestrator": orders, "loadtest": load_tests}

ARGUMENTS = r"((?:[^`#|;&>)\n\\]|\\\n)*)"
MODULE_COMMAND = re.compile(r"python -m ([a-z_.]+)" + ARGUMENTS)
ORDERS_COMMAND = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*orders" + ARGUMENTS, re.MULTILINE)
MAKE_COMMAND = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*make ([a-z-]+)", re.MULTILINE)


def code(page: Path) -> str:
    """All code blocks and inline code of a page, one below the other."""
    text = page.read_text()
    return "\n".join([*FENCED.findall(text), *CODE.findall(FENCED.sub("", text))])


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The module and the arguments of each command."""
    text = code(page)
    found = MODULE_COMMAND.findall(text) + [("orchestrator", words) for words in ORDERS_COMMAND.findall(text)]
    for module, words in found:
        yield module.rstrip("."), shlex.split(words.replace("\\\n", " "))


def resolve(app: typer.Typer, words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and its arguments. Raises LookupError if it is unknown."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*[a-z]", words[0]):
        if words[0] not in command.commands:
            raise LookupError(f"there is no command {words[0]}")
        command, words = command.commands[words[0]], words[1:]
    return command, words


def problems(module: str, words: list[str]) -> Iterator[str]:
    if importlib.util.find_spec(module) is None:
        yield f"there is no module {module}"
    elif module in APPS and words:
        try:
            command, arguments = resolve(APPS[module], words)
        except LookupError as error:
            yield str(error)
            return
        known = {"--help", *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}
        for word in arguments:
            option = word.partition("=")[0].rstrip(".,:")
            if option.startswith("--") and option not in known:
                yield f"{command.name} has no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_options_exist(page: Path) -> None:
    assert [each for module, words in commands(page) for each in problems(module, words)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_targets_of_make_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(MAKE_COMMAND.findall(code(page))) <= set(targets)


def test_every_target_of_make_is_documented() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    documented = {target for page in PAGES for target in MAKE_COMMAND.findall(code(page))}
    assert targets <= documented | {"help"}
