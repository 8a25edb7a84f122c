"""The locustfile for tests: other tests run beside them, and delay the orders that they send."""

from loadtest.locustfile import *  # noqa: F403
from loadtest.verdict import validity

validity.SEND_DELAY_TOLERANCE_MS = 1_500.0
