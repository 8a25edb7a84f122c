"""Print the table of crashes after the tests."""

import pytest

from tests.chaos.crashes import TABLE_HEAD
from tests.chaos.network import missing_requirements

MISSING = missing_requirements()

# Only root can create network namespaces.
collect_ignore = ["test_machines.py"] if MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MISSING:
        terminalreporter.section("machines")
        terminalreporter.write_line(f"Network cuts were not tested; they need {' and '.join(MISSING)}.")
    reports = [report for each in ("passed", "failed") for report in terminalreporter.getreports(each)]
    rows = [row for report in reports for name, row in report.user_properties if name == "crash"]
    if rows:
        terminalreporter.section("crashes")
        terminalreporter.write_line("\n".join([TABLE_HEAD, *rows]))
