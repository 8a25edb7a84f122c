"""The supervisor's own process: supervisord, made to notice a dead component at once.

Run as a script by the launcher. supervisord's loop sleeps up to a second in `poll`, and needs two rounds
to restart what died (one to notice, one to start): up to 2 s without the part. Waking ten times a second
costs about 0.1 % of a core and brings a killed component back in about 0.2 s plus its own start.
"""

import supervisor.poller
from supervisor.supervisord import main

LONGEST_SLEEP_SECONDS = 0.1


class PromptPoller(supervisor.poller.Poller):  # type: ignore[misc]
    """supervisord's poller, which never sleeps longer than LONGEST_SLEEP_SECONDS."""

    def poll(self, timeout: float) -> object:
        return super().poll(min(timeout, LONGEST_SLEEP_SECONDS))


if __name__ == "__main__":
    supervisor.poller.Poller = PromptPoller
    main()
