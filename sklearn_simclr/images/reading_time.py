"""Compare the time of reading images with the time that a training has."""

import math
import threading
import time
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from .._utils.progress import in_words
from .._utils.warn import warn

__all__ = ["Progress"]

# Seconds and images of reading after which it is estimated how long the rest will take: the first files may
# be slow. Fewer images suffice if they take this part of the time. An estimate may be so many times too high
# at the beginning; from half of the time on it is believed.
_ESTIMATED_AFTER = 0.5
_FEW_IMAGES = 16
_LONG = 0.25
_DOUBT = 2.0

# Seconds at least between two marks of the clock.
_BETWEEN_MARKS = 0.02

# A warning comes if reading takes a larger part of the time than this.
_MUCH = 0.5


class Progress:
    """Counts the images that have been read; warns or raises once it is clear that reading takes too long."""

    def __init__(self, bar: Any, total: int, max_time: float | None, kept: bool) -> None:
        self.bar, self.total, self.max_time, self.kept = bar, total, max_time, kept
        self.started = time.perf_counter()
        self.lock = threading.Lock()
        # Times, with the images decoded by then. The first images take longer: some work is done only once.
        self.decoded, self.marks = 0, [(self.started, 0)]
        self.warned = self.over = False

    def skip(self, n: int) -> None:
        """Leave out images that need not be read."""
        self.bar.update(n)
        self.total -= n

    def count(self) -> None:
        """Count an image that has been decoded, in any thread."""
        with self.lock:
            self.decoded += 1
            now = time.perf_counter()
            if now - self.marks[-1][0] > _BETWEEN_MARKS or self.decoded == 1:
                self.marks.append((now, self.decoded))

    def check(self) -> None:
        """Warn or raise where reading takes too long."""
        if self.max_time is None:
            return
        now = time.perf_counter()
        spent = now - self.started
        with self.lock:
            decoded = self.decoded
            later = (mark for mark in self.marks if 2 * mark[1] >= decoded)
            at, before = next(later, self.marks[-1])  # many may have been decoded since the last mark
            if before == decoded:
                at, before = self.marks[min(1, len(self.marks) - 1)]
        if spent > self.max_time:
            expected = spent * self.total / max(1, decoded)
            self._judge(spent, expected)
            return
        enough = decoded >= _FEW_IMAGES or spent >= _LONG * self.max_time
        if enough and now - at >= _ESTIMATED_AFTER and decoded > before:
            # The later half of the decoded images counts.
            self._judge(spent, spent + (now - at) / (decoded - before) * (self.total - decoded))

    def _judge(self, spent: float, expected: float) -> None:
        assert self.max_time is not None
        given = f"max_time={self.max_time:g}"
        takes = f"reading {self.total:,} of them takes about {in_words(expected)}"
        wanted = f"Pass max_time={math.ceil(2 * expected)} or more, or fewer images. "
        wanted += (
            "The images that have been read are in cache_dir, so the next fit does not read them again."
            if self.kept
            else "With cache_dir, decoded images are kept for the next fit."
        )
        if expected > self.max_time * max(1.0, _DOUBT * (1 - spent / self.max_time)):
            raise ValueError(f"{given} is too short for these images: {takes}. {wanted}")
        if expected > _MUCH * self.max_time and not self.warned:
            self.warned = True
            warn(f"{given} is short for these images: {takes}. {wanted}", ConvergenceWarning)
