"""Load tests of the order system: `locust -f loadtest/locustfile.py`, with the web page or `--headless`.

The options below are fields of the form and switches of the command line. Whatever starts and stops a run,
it is drained, judged, stored and reported in the same way.
"""

import sys
from pathlib import Path

# Locust loads this file by its path, from any directory, with this folder first among those that are searched
# for modules, where ours would hide others of the same name. It takes the first entry away afterwards.
_HERE = Path(__file__).resolve().parent
sys.path = [
    str(_HERE.parent),
    *(path for path in sys.path if Path(path).resolve() != _HERE),
    str(_HERE.parent),
]

from collections.abc import Callable
from typing import Any

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest import run_controller
from loadtest.options import EXPECT_WORKERS_SECONDS, FAULT_PROFILES, UNCHANGED, Arrivals, RunOptions, Scenario
from loadtest.scenarios import (
    AddressChurnUser,
    CancelStormUser,
    MixedUser,
    ResubmitUser,
    ReviewDeskUser,
    StartOnlyUser,
)
from orchestrator.settings import Settings

__all__ = [
    "AddressChurnUser",
    "CancelStormUser",
    "MixedUser",
    "ResubmitUser",
    "ReviewDeskUser",
    "StartOnlyUser",
]


def add_options(parser: LocustArgumentParser) -> None:
    """Our options, and Locust's defaults as this system wants them."""
    with run_controller.refusals():
        settings = Settings.load()
    parser.set_defaults(
        host=settings.api_url,
        web_host=settings.bind_address,
        master_bind_host=settings.bind_address,
        web_port=settings.port("locust"),
        spawn_rate=100,
        expect_workers_max_wait=EXPECT_WORKERS_SECONDS,
    )
    # Not through a group of arguments: what is added to one does not get into the form.
    add = parser.add_argument
    # The choices are for the form: what is given here is refused before, with our sentence.
    add(
        "--scenario",
        type=_known("scenario"),
        choices=[*Scenario],
        default=Scenario.MIXED.value,
        help="What is done with the orders",
    )
    add("--rate", default="5", help="Orders a second")
    add("--duration", default="60s", help="How long orders are sent: 30s, 5m, 1m30s")
    add("--stages", default="", help="Instead of rate and duration: 30s@2,60s@10 (steps), 30s@2..10 (a ramp)")
    add(
        "--arrivals",
        type=_known("arrivals"),
        choices=[*Arrivals],
        default=Arrivals.CONSTANT.value,
        help="Open loops, or closed users",
    )
    add(
        "--faults",
        type=_known("faults"),
        choices=[UNCHANGED, *FAULT_PROFILES],
        default=UNCHANGED,
        help="Fault profile during the run; put back afterwards",
    )
    add("--seed", default="1", help="Of faults, arrivals and what is done with which order")
    add(
        "--chaos", default="", help="20s kill order-worker, 40s restart postgres, every 60s kill order-worker"
    )
    add("--run-id", default="", help="A name for the run; empty: made from the time")
    add("--slo-seconds", default="15", help="The limit, counted from acceptance")
    add("--slo-target", default="0.99", help="Share of orders that must be within the limit")
    add(
        "--drain-seconds",
        default="30",
        help="How long orders in flight are waited for: the limit at least",
    )
    # As flags; the form has the two words.
    add(
        "--shed-ok",
        nargs="?",
        const="yes",
        choices=["", "yes"],
        default="",
        help="Count orders that are turned away (429) apart",
    )
    add(
        "--stop-when-hopeless",
        nargs="?",
        const="yes",
        choices=["", "yes"],
        default="",
        help="End once the target cannot be met",
        include_in_web_ui=False,
    )
    add("--compare", default="", help="The id of an earlier run to compare with")


def _known(option: str) -> Callable[[str], str]:
    """Refuses a value as `python -m loadtest run` does."""

    def check(value: str) -> str:
        with run_controller.refusals():
            RunOptions.parse({option: value})
        return value

    return check


def prepare(environment: Environment, **_: Any) -> None:
    run_controller.prepare(environment)


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
