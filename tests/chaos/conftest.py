"""Shows what the crashes did, passed or failed."""

import pytest

from tests.chaos.crashes import HEADING
from tests.chaos.network import what_is_missing

MISSING = what_is_missing()

# Not everybody may make networks; .ci/run may.
collect_ignore = ["test_machines.py"] if MISSING else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MISSING:
        terminalreporter.section("machines")
        terminalreporter.write_line(f"No network was cut: that needs {' and '.join(MISSING)}.")
    reports = [report for each in ("passed", "failed") for report in terminalreporter.getreports(each)]
    rows = [row for report in reports for name, row in report.user_properties if name == "crash"]
    if rows:
        terminalreporter.section("crashes")
        terminalreporter.write_line("\n".join([HEADING, *rows]))
