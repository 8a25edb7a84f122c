"""The load tests as they are, but for how long they wait for an API that does not come back."""

from loadtest import afterwards
from loadtest.locustfile import *  # noqa: F403

afterwards.PATIENCE_SECONDS = 3.0
