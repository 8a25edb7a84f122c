"""Every command, option, setting, error, exit code and column is documented, and nothing else is."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import db
import orchestrator
from db.maintenance.audit import INVARIANTS
from loadtest.commands import app as load_tests
from orchestrator import errors
from orchestrator.api.app import create_app
from orchestrator.api.problem_details import status_of
from orchestrator.cli import app as orders
from orchestrator.embedded.layout import PROJECT_ROOT
from orchestrator.errors import ExitCode
from orchestrator.messages.activities import Activity
from orchestrator.settings import Settings, environment_names
from tests.docs.pages import CODE, REFERENCE, first_column, rows, section
from tests.integration.test_latency_csv import COLUMNS

API_OPTIONS = {"--json", "--api-url"}


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a Typer application, by its full name."""
    children = getattr(command, "commands", {})
    if not children or (name and command.invoke_without_command):
        yield name, command
    for child_name, child in children.items():
        yield from commands(child, f"{name} {child_name}".strip())


def options(command: Any) -> set[str]:
    return {name for each in command.params for name in each.opts if name.startswith("--")}


def test_every_command_and_option_of_the_command_line() -> None:
    documented = {}
    for cells in rows((REFERENCE / "cli.md").read_text()):
        named = {code for code in CODE.findall(cells[1]) if code.startswith("--")}
        has_api_options = re.search(r"\bAPI$", cells[1]) is not None
        documented[CODE.findall(cells[0])[0]] = named | (API_OPTIONS if has_api_options else set())
    existing = {name: options(command) for name, command in commands(typer.main.get_command(orders))}
    assert documented == existing


@pytest.mark.parametrize("name", ["run", "capacity", "compare"])
def test_every_option_of_the_load_tests(name: str) -> None:
    command: Any = dict(commands(typer.main.get_command(load_tests)))[name]
    documented = first_column(section(REFERENCE / "load-test-options.md", f"## {name}"))
    assert sorted(documented) == sorted(options(command))


def test_every_load_test_command() -> None:
    headings = re.findall(r"^## (\w+)$", (REFERENCE / "load-test-options.md").read_text(), re.MULTILINE)
    assert set(headings) == dict(commands(typer.main.get_command(load_tests))).keys()


def test_every_setting() -> None:
    text = (REFERENCE / "settings.md").read_text()
    documented = first_column(text)
    existing = [name for names in environment_names().values() for name in names]
    example = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE)
    # Read by Temporal's SDK itself; a sentence on the page names them.
    sdk = {name for name in example if name == "TEMPORAL_API_KEY" or name.startswith("TEMPORAL_TLS")}
    assert set(documented) == {*existing, *example} - sdk
    assert len(documented) == len(set(documented))


def test_default_values_of_settings() -> None:
    defaults = {
        name: field.default
        for field_name, field in Settings.model_fields.items()
        for name in environment_names()[field_name]
    }
    for cells in rows((REFERENCE / "settings.md").read_text()):
        name, shown = CODE.findall(cells[0])[0], cells[1].strip("`")
        if isinstance(defaults.get(name), bool):
            assert shown == str(defaults[name]).lower(), name
        elif isinstance(defaults.get(name), int | float):
            assert float(shown) == defaults[name], name


def test_every_exit_code() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows((REFERENCE / "exit-codes.md").read_text())}
    assert documented == {str(code.value): code.name.lower().replace("_", " ") for code in ExitCode}


def import_packages() -> None:
    """Import every module, so that all error classes exist."""
    for package in (db, orchestrator):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def error_classes(root: type[Exception] = errors.OrderSystemError) -> set[type[Exception]]:
    return {root}.union(*(error_classes(each) for each in root.__subclasses__()))


def test_every_error_with_its_http_status() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows((REFERENCE / "errors.md").read_text())}
    import_packages()
    existing = {each for each in error_classes() if each.__module__.startswith(("db.", "orchestrator."))}
    assert documented.keys() == {each.__name__ for each in existing}
    for each in existing:
        # 401 or 403: the place that raises it decides.
        if (
            issubclass(each, errors.RequestRejected | errors.ServiceUnavailable)
            and each is not errors.NotAllowed
        ):
            assert documented[each.__name__] == str(status_of(each())), each.__name__


def test_every_type_of_a_problem_document() -> None:
    documented = re.findall(r"`(urn:problem:[a-z-]+)`", (REFERENCE / "errors.md").read_text())
    assert documented == list(errors.PROBLEM_TYPES)


def test_every_column_of_the_latency_csv() -> None:
    assert first_column((REFERENCE / "latency-csv.md").read_text()) == list(COLUMNS)


def test_every_invariant() -> None:
    documented = {
        int(cells[0].strip("`")): cells[1] for cells in rows((REFERENCE / "invariants.md").read_text())
    }
    assert documented == INVARIANTS


def test_every_route_of_the_api() -> None:
    documented = set(first_column((REFERENCE / "rest-api.md").read_text()))
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]  # type: ignore[call-arg]
    existing = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert documented == existing


def test_every_activity() -> None:
    documented = first_column(section(REFERENCE / "workflows.md", "## Activities"))
    assert sorted(documented) == sorted(each.value for each in Activity)


def test_every_table_of_the_database() -> None:
    migrations = "".join(file.read_text() for file in (PROJECT_ROOT / "db" / "migrations").glob("*.sql"))
    existing = set(re.findall(r"^create table ([a-z_.]+)", migrations, re.MULTILINE))
    assert set(first_column((REFERENCE / "database-tables.md").read_text())) == existing
