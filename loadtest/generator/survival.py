"""Survival curve of the orders of a run: how long an order takes if the load generator does not abort it."""

from collections import deque
from dataclasses import dataclass, field

DEFAULT_SECONDS = 5.0
"""Assumed until enough orders have finished: about what an order takes under the `assignment` faults."""

MIN_SAMPLES = 20
MAX_SAMPLES = 200
SURVIVING_SHARE = 0.1
EXTRAPOLATION = 1.5


@dataclass
class SurvivalCurve:
    """Kaplan-Meier estimate over the newest orders.

    Orders that were cancelled or rejected are censored: each would have taken longer than its age at that
    moment. Without them the estimate would shrink with every cancellation. Source: E. L. Kaplan and P. Meier,
    "Nonparametric estimation from incomplete observations", JASA 53 (1958) 457-481.
    """

    _samples: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))

    def add_finished(self, seconds: float) -> None:
        """Add an order that reached its outcome `seconds` after acceptance."""
        self._samples.append((seconds, False))

    def add_censored(self, seconds: float) -> None:
        """Add an order that was cancelled or rejected `seconds` after acceptance."""
        self._samples.append((seconds, True))

    def span_seconds(self) -> float:
        """Return the time within which nine of ten orders finish."""
        if len(self._samples) < MIN_SAMPLES:
            return DEFAULT_SECONDS
        surviving = 1.0
        samples = sorted(self._samples)
        for number, (seconds, is_censored) in enumerate(samples):
            if not is_censored:
                surviving *= 1 - 1 / (len(samples) - number)
            if surviving <= SURVIVING_SHARE:
                return seconds
        # Too many samples are censored: the true value is above the largest one.
        return samples[-1][0] * EXTRAPOLATION
