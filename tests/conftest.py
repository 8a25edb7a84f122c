"""What all tests share: the switches of the command line, and their distance from a developer's settings."""

import os

import hypothesis
import pytest

from orchestrator.settings import Settings, environment_names


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workflow-environment",
        choices=("time-skipping", "local"),
        default="time-skipping",
        help="the server for tests/workflows: one that skips time (default), or a real local one",
    )


LIVE_STACKS = 2
"""How many whole stacks tests side by side may have for themselves; each takes as much as many tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For tests side by side: those of a file stay together, since they share its servers, and so do files
    that share a running stack. A load test has all but its database for itself and mostly waits, so each goes
    wherever there is room."""
    live = sorted({item.path for item in items if "live_stack" in getattr(item, "fixturenames", ())})
    groups = {path: f"live-{number % LIVE_STACKS}" for number, path in enumerate(live)}
    for item in items:
        if item.path.parent.name != "load":
            item.add_marker(pytest.mark.xdist_group(groups.get(item.path, item.path.stem)))


def pytest_configure() -> None:
    """Properties are not timed: a busy machine refutes none. And a developer's own server or home must never
    be what the tests work on."""
    hypothesis.settings.register_profile("orders", deadline=None)
    hypothesis.settings.load_profile("orders")
    Settings.model_config["env_file"] = None
    for names in environment_names().values():
        for name in names:
            os.environ.pop(name, None)
