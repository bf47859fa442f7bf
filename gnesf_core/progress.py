"""A line of progress now and then, for long work."""

import logging
import time

log = logging.getLogger(__name__)

_REPORT_SECONDS = 10.0


class Progress:
    """Says how far a long work is and when it will end, every ten seconds at most."""

    def __init__(self, what: str, total: int, before: int = 0) -> None:
        """Count `total` things called `what`, of which `before` were done earlier."""
        self._what, self._total, self._before = what, total, before
        self._started = self._told = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return how long it has taken so far."""
        return time.monotonic() - self._started

    def tell(self, done: int) -> None:
        """Say that so many are done, unless it was said a moment ago."""
        now = time.monotonic()
        if now - self._told <= _REPORT_SECONDS:
            return
        self._told = now
        rate = (done - self._before) / (now - self._started)
        left_s = (self._total - done) / max(rate, 1e-9)
        values = done, self._total, self._what, rate, self._what, duration(left_s)
        log.info("%d of %d %s, %.3g %s/s, %s left", *values)


def duration(seconds: float) -> str:
    """Write a time to wait as a person would say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
