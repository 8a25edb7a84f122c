"""Pytest plugin: a test fails if its output, its files, its processes or a response have a planted secret."""

import asyncio.subprocess
import functools
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import secrets

_scanned: set[Path] = set()


def pytest_configure() -> None:
    """Scan what tests receive from processes, from capsys and from servers: it is in no report."""
    _scan_results(subprocess.Popen, "communicate", "output of a process", lambda printed: printed)
    _scan_results(pytest.CaptureFixture, "readouterr", "captured output", lambda printed: printed)
    _scan_results(httpx.Client, "send", "response", _content)
    _scan_async_results(asyncio.subprocess.Process, "communicate", "output of a process", lambda it: it)
    _scan_async_results(httpx.AsyncClient, "send", "response", _content)


def _content(response: httpx.Response) -> tuple[str, ...]:
    # The body of a stream is read later.
    return (str(response.headers), response.text if response.is_closed else "")


Outputs = Callable[[Any], tuple[str | bytes | None, ...]]


def _scan_results(owner: type, name: str, place: str, outputs: Outputs) -> None:
    """Replace a method by one that also records the secrets in its result."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def scanned(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        secrets.record(place, *outputs(result))
        return result

    setattr(owner, name, scanned)


def _scan_async_results(owner: type, name: str, place: str, outputs: Outputs) -> None:
    method = getattr(owner, name)

    @functools.wraps(method)
    async def scanned(*arguments: Any, **options: Any) -> Any:
        result = await method(*arguments, **options)
        secrets.record(place, *outputs(result))
        return result

    setattr(owner, name, scanned)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    yield
    if (directory := getattr(item, "funcargs", {}).get("tmp_path")) is not None:
        _scan(directory)


@pytest.fixture(scope="session", autouse=True)
def _scan_shared_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Scan the directories of module and session fixtures, after the end of these fixtures."""
    yield
    for directory in tmp_path_factory.getbasetemp().iterdir():
        # Links to the newest directory of a test.
        if not directory.is_symlink():
            _scan(directory)


def _scan(directory: Path) -> None:
    if directory not in _scanned:
        _scanned.add(directory)
        secrets.leaks += [f"{directory.name}/{found}" for found in secrets.found_below(directory)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test with a leak, and remove the secret from what pytest prints."""
    report = yield
    for place, text in report.sections:
        secrets.record(place, text)
    if secrets.leaks:
        message = "a secret was written: " + "; ".join(dict.fromkeys(secrets.leaks))
        secrets.leaks.clear()
        report.sections = [(place, secrets.redacted(text)) for place, text in report.sections]
        if report.failed:
            report.sections.append(("secrets", message))
        else:
            report.outcome, report.longrepr = "failed", message
    return report
