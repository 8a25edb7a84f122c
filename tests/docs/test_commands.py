"""Every command that the documents show exists, with the options that they show."""

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

DOCUMENTS = [PROJECT_ROOT / "README.md", *sorted((PROJECT_ROOT / "docs").rglob("*.md"))]
APPS = {"orchestrator": orders, "loadtest": load_tests}

# As far as a reader would copy it: over continued lines, up to a comment or the text around it.
SHOWN = re.compile(r"python -m ([a-z_.]+)((?:[^`#|;&>)\n\\]|\\\n)*)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"(?:^|; )make ([a-z]+)", re.MULTILINE)


def shown(document: Path) -> Iterator[tuple[str, list[str]]]:
    for module, words in SHOWN.findall(document.read_text()):
        try:
            yield module.rstrip("."), shlex.split(words.replace("\\\n", " "))
        except ValueError:
            # An apostrophe of the sentence around it.
            yield module.rstrip("."), []


def command_of(app: typer.Typer, words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words lead to, and the words after it. Placeholders lead nowhere further."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and re.fullmatch(r"[a-z][a-z-]*[a-z]", words[0]):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist_and_have_the_options_that_are_shown(document: Path) -> None:
    wrong = []
    for module, words in shown(document):
        if importlib.util.find_spec(module) is None:
            wrong.append(f"there is no module {module}")
        elif module in APPS and words:
            try:
                command, rest = command_of(APPS[module], words)
            except AssertionError as error:
                wrong.append(str(error))
                continue
            known = {
                "--help",
                *(name for each in command.params for name in (*each.opts, *each.secondary_opts)),
            }
            given = (word.partition("=")[0].rstrip(".,:") for word in rest if word.startswith("--"))
            wrong += [f"{command.name} has no option {option}" for option in given if option not in known]
    assert not wrong, wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_targets_of_make_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    text = document.read_text()
    quoted = re.findall(r"`make ([a-z]+)", text) + MADE.findall("\n".join(FENCED.findall(text)))
    missing = set(quoted) - targets
    assert not missing, missing
