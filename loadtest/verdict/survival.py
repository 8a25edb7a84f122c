"""How long the orders of a run live when nobody turns them back, from those that were seen so far."""

from collections import deque
from dataclasses import dataclass, field

DEFAULT_SECONDS = 5.0
"""About as long as an order lives under the `assignment` faults: what is taken for granted at first."""

ENOUGH = 20
REMEMBERED = 200
LONG_LIVED_SHARE = 0.1
GROWTH = 1.5


@dataclass
class SurvivalCurve:
    """The newest lives: seconds from acceptance, and whether the order was turned back then.

    How long such an order would have lived nobody knows, only that it would have been longer. To leave it out
    would make lives look shorter the more orders are turned back, so it is counted as Kaplan and Meier do
    (1958, "Nonparametric estimation from incomplete observations").
    """

    _lives: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def ended(self, seconds: float) -> None:
        """An order reached its outcome by itself."""
        self._lives.append((seconds, False))

    def turned_back(self, seconds: float) -> None:
        """An order was cancelled or rejected at this age."""
        self._lives.append((seconds, True))

    def span_seconds(self) -> float:
        """What nine of ten orders do not outlive, as far as can be told."""
        if len(self._lives) < ENOUGH:
            return DEFAULT_SECONDS
        alive = 1.0
        lives = sorted(self._lives)
        for number, (seconds, was_turned_back) in enumerate(lives):
            if not was_turned_back:
                alive *= 1 - 1 / (len(lives) - number)
            if alive <= LONG_LIVED_SHARE:
                return seconds
        # Most were turned back before anybody could see how long they live: it is longer than this.
        return lives[-1][0] * GROWTH
