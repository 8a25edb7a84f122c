"""Load tests of the order system: `locust -f loadtest/locustfile.py`, with the web UI or `--headless`.

The options in `loadtest/options.py` are both fields of the web form and command-line options. Locust's own
environment variables and configuration files have no effect, because they are for other load tests.
"""

import os
import sys
from pathlib import Path

# Locust puts this file's directory first on the module search path, where its modules would hide others of
# the same name. After it has loaded this file, Locust removes the first entry. So the project root is the
# first and the last entry.
_HERE = Path(__file__).resolve().parent
sys.path = [
    str(_HERE.parent),
    *(path for path in sys.path if Path(path).resolve() != _HERE),
    str(_HERE.parent),
]

from collections.abc import Callable

from locust import events
from locust.argument_parser import LocustArgumentParser

from loadtest import run_controller
from loadtest.options import EXPECT_WORKERS_SECONDS, OPTIONS, LoadTestOption
from loadtest.scenarios import (  # noqa: F401 - Locust finds its user classes in this module
    AddressChurnUser,
    CancelStormUser,
    MixedUser,
    ResubmitUser,
    ReviewDeskUser,
    StartOnlyUser,
)
from orchestrator.settings import Settings

OWN_VARIABLES = ("LOCUST_PORT",)

# Locust reads some of these variables without its parser, and parses its options after it loads this file.
for _name in [name for name in os.environ if name.startswith("LOCUST_") and name not in OWN_VARIABLES]:
    del os.environ[_name]


def add_options(parser: LocustArgumentParser) -> None:
    """Add the load-test options, and set this system's defaults for Locust's own options."""
    with run_controller.exit_on_error():
        settings = Settings.load()
    parser._default_config_files = []
    parser.set_defaults(
        host=settings.api_url,
        web_host=settings.bind_address,
        master_bind_host=settings.bind_address,
        web_port=settings.port("locust"),
        spawn_rate=100,
        expect_workers_max_wait=EXPECT_WORKERS_SECONDS,
    )
    for option in OPTIONS.values():
        if option.is_locust_option:
            continue
        # Not in an argument group: Locust's web form does not show the arguments of a group.
        if option.is_flag:
            parser.add_argument(f"--{option.cli_name}", action="store_true", help=option.help)
        else:
            parser.add_argument(
                f"--{option.cli_name}",
                type=_checked(option),
                choices=option.choices or None,
                default=option.default,
                help=option.help,
            )


def _checked(option: LoadTestOption) -> Callable[[str], str]:
    """Reject a value with the message of `python -m loadtest run`, before argparse checks the choices."""

    def check(text: str) -> str:
        with run_controller.exit_on_error():
            option.value({option.name: text})
        return text

    return check


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(run_controller.prepare)
