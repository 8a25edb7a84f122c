"""The locustfile with a shorter retry budget after the run."""

from loadtest import post_run
from loadtest.locustfile import *  # noqa: F403

post_run.RETRY_BUDGET_SECONDS = 3.0
