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

LONGEST_FIRST = ("races", "deployment", "integration", "mutants", "workflows", "dashboard")
"""Folders of which one group may take a minute: begun last, it would run on when all others are done."""


# First, because pytest-xdist reads the groups in a hook of the same name.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For tests side by side: those of a file stay together, since they share its servers, and so do files
    that share a running stack. A load test has all but its database for itself and mostly waits, so each goes
    wherever there is room; they are spread among the tests that compute, in the first half of these."""
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
    """Groups that nobody keeps together would go unnoticed, but for the time that it takes."""
    if getattr(session.config.option, "loadgroup", False):
        apart = [
            item
            for item in session.items
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid
        ]
        assert not apart, "this pytest-xdist does not mark the groups of this pytest"


def pytest_configure() -> None:
    """Properties are not timed: a busy machine refutes none. And a developer's own server or home must never
    be what the tests work on."""
    hypothesis.settings.register_profile("orders", deadline=None)
    hypothesis.settings.load_profile("orders")
    Settings.model_config["env_file"] = None
    for names in environment_names().values():
        for name in names:
            os.environ.pop(name, None)
