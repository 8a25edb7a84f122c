"""The load tests as they are, but for how long they wait for an API that does not come back."""

from loadtest import post_run
from loadtest.locustfile import *  # noqa: F403

post_run.PATIENCE_SECONDS = 3.0
