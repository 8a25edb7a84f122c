"""The loader of named SQL."""

import re
from pathlib import Path

import pytest

from db import queries

FOLDER = Path(queries.__file__).parent
FILES = sorted(file.name for file in FOLDER.glob("*.sql"))


@pytest.mark.parametrize("file_name", FILES)
def test_every_named_statement_of_a_file_is_loaded(file_name):
    text = (FOLDER / file_name).read_text(encoding="utf-8")
    assert sorted(queries.load(file_name)) == sorted(re.findall(r"(?m)^-- name: (\w+)$", text))
    assert queries.load(file_name)


@pytest.mark.parametrize("file_name", FILES)
def test_every_statement_is_one_statement_without_its_semicolon(file_name):
    for name, statement in queries.load(file_name).items():
        without_comments = re.sub(r"--.*", "", statement)
        without_strings = re.sub(r"'[^']*'", "", without_comments)
        assert without_strings.strip(), name
        assert ";" not in without_strings, name


@pytest.mark.parametrize("file_name", FILES)
def test_no_statement_has_an_unescaped_percent_sign(file_name):
    for name, statement in queries.load(file_name).items():
        assert not re.search(r"(?<!%)%(?!\(\w+\)[sbt]|%)", statement), name


def test_an_unknown_file_raises_file_not_found():
    with pytest.raises(FileNotFoundError):
        queries.load("no_such_file.sql")


def test_a_duplicate_name_is_rejected(tmp_path):
    twice = tmp_path / "twice.sql"
    twice.write_text("-- name: one\nselect 1;\n\n-- name: one\nselect 2;\n", encoding="utf-8")
    with pytest.raises(ValueError, match="twice"):
        queries.load(str(twice))


def test_text_before_the_first_name_belongs_to_no_statement(tmp_path):
    file = tmp_path / "headed.sql"
    file.write_text("-- About this file.\n\n-- name: one\n-- Why.\nselect 1;\n", encoding="utf-8")
    assert queries.load(str(file)) == {"one": "-- Why.\nselect 1"}
