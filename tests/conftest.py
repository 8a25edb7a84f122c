"""Options of the test run, its distribution to processes, and isolation from the developer's settings."""

import os

import hypothesis
import pytest

from orchestrator.settings import Settings, environment_names
from orchestrator.settings.environment import isolate_process
from orchestrator.settings.gateways import ROLES, SIMULATED
from tests import secrets

pytest_plugins = ["tests.secret_scan"]

# Before the test modules import it.
secrets.record_new_keys()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workflow-environment",
        choices=("time-skipping", "local"),
        default="time-skipping",
        help="the server for tests/workflows: with time skipping (default), or a local server",
    )
    parser.addoption(
        "--approve-screenshots",
        action="store_true",
        help="store the screenshots of tests/browser/test_views.py as approved, instead of comparing them",
    )


LIVE_STACKS = 2
"""Maximum number of stacks at the same time: a stack needs as much CPU as many tests."""

LONGEST_FIRST = ("races", "deployment", "integration", "mutants", "workflows", "dashboard")
"""Directories with groups of a minute or more, which start first so that they are not the last ones."""


# Before the hook of pytest-xdist, which reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for parallel processes.

    The tests of a file share servers, so they form a group; so do files that share a stack. Load tests mostly
    wait and share a database only, so they are ungrouped, spread over the first half of the other tests.
    """
    live = sorted({item.path for item in items if "live_stack" in getattr(item, "fixturenames", ())})
    lives = {path: f"live-{number % LIVE_STACKS}" for number, path in enumerate(live)}
    loads = [item for item in items if "load_test" in getattr(item, "fixturenames", ())]
    groups = {item: lives.get(item.path, item.path.stem) for item in items if item not in loads}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    begins = {item: 0.5 * number / len(loads) for number, item in enumerate(loads)}
    in_order = list(dict.fromkeys(groups[item] for item in sorted(groups, key=_rank)))
    begins |= {item: in_order.index(group) / len(in_order) for item, group in groups.items()}
    items.sort(key=begins.__getitem__)


def _rank(item: pytest.Item) -> int:
    folder = item.path.parent.name
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fail if pytest-xdist ignores the groups, which otherwise only costs time."""
    if getattr(session.config.option, "loadgroup", False):
        ungrouped = [
            item
            for item in session.items
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid
        ]
        assert not ungrouped, "this pytest-xdist does not mark the groups of this pytest"


def pytest_configure() -> None:
    """Remove time limits of properties and the developer's settings, plant secrets, and name the simulated
    gateways, as a system with an external database must."""
    hypothesis.settings.register_profile("orders", deadline=None)
    hypothesis.settings.load_profile("orders")
    isolate_process()
    Settings.model_config["env_file"] = None
    for names in environment_names().values():
        for name in names:
            os.environ.pop(name, None)
    for role in ROLES:
        os.environ[f"{role.upper()}_GATEWAY"] = SIMULATED
    os.environ.update(secrets.ENVIRONMENT)
