"""supervisord with a shorter polling interval. The launcher runs this file as a script.

supervisord sleeps up to 1 s in `poll` and needs two rounds to restart a component: one to notice its exit,
one to start it. With 0.1 s a component restarts within 0.2 s plus its own start, for 0.1 % of a core.
"""

import supervisor.poller
from supervisor.supervisord import main

POLL_SECONDS = 0.1


class ShortIntervalPoller(supervisor.poller.Poller):  # type: ignore[misc]
    def poll(self, timeout: float) -> object:
        return super().poll(min(timeout, POLL_SECONDS))


if __name__ == "__main__":
    supervisor.poller.Poller = ShortIntervalPoller
    main()
