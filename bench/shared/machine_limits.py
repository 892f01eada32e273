"""How fast this machine reads and multiplies, with one thread and with several."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from shared.native_library import Library

ROUNDS = 7
SECONDS_PER_ROUND = 0.02
MEGABYTE = 1_000_000
FLOAT = 4

STREAMS = (1, 4)
"""Numbers of places that are read side by side. A simple loop reads one, which is seldom the fastest."""


@dataclass(frozen=True)
class Limits:
    """What the machine reaches. bandwidth: bytes per second, by (megabytes, threads), when that many threads
    read a working set of that size repeatedly; peak: float32 operations per second, by threads, where a
    multiply-add is two operations.
    """

    bandwidth: dict[tuple[int, int], float]
    peak: dict[int, float]

    def ms(self, n_bytes: float, operations: float, working_set: float, threads: int) -> tuple[float, str]:
        """The minimum time, and what it is spent waiting for. operations: in float32."""
        reading = n_bytes / self.bandwidth[megabytes(working_set), threads]
        computing = operations / self.peak[threads]
        return max(reading, computing) * 1e3, "memory" if reading >= computing else "arithmetic"


def megabytes(n_bytes: float) -> int:
    return max(1, round(n_bytes / MEGABYTE))


def measure(library: Library, working_sets: Iterable[tuple[float, int]]) -> Limits:
    """Measure the limits for working sets of (bytes, threads).

    The best of several rounds counts: an interruption is not a limit of the machine.
    """
    wanted = sorted({(megabytes(n_bytes), threads) for n_bytes, threads in working_sets})
    bandwidth = {key: _bandwidth(library, key[0] * MEGABYTE, key[1]) for key in wanted}
    peak = {threads: _peak(library, threads) for threads in sorted({threads for _, threads in wanted})}
    return Limits(bandwidth, peak)


def reading(library: Library, n_bytes: int, large_pages: bool, streams: int) -> Callable[[int], None]:
    """A function of the number of loops that reads a new block of memory."""
    step = library.number("read_step") * streams
    n = math.ceil(n_bytes / FLOAT / step) * step
    memory = mmap.mmap(-1, n * FLOAT)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE if large_pages else mmap.MADV_NOHUGEPAGE)
    data = np.frombuffer(memory, np.float32, n)
    data[:] = 1.0  # without this, every page would be the same page of zeros
    return library.repeat("read", data, n, streams)


def _bandwidth(library: Library, n_bytes: int, threads: int) -> float:
    """The fastest of small and large pages, and of one stream and several."""
    best = 0.0
    for large_pages in (False, True):
        for streams in STREAMS:
            works = [reading(library, n_bytes // threads, large_pages, streams) for _ in range(threads)]
            best = max(best, n_bytes / _seconds(works))
    return best


def _peak(library: Library, threads: int) -> float:
    run = library.repeat("multiply_add")
    return threads * library.number("multiply_add_operations") / _seconds([run] * threads)


def _seconds(works: list[Callable[[int], None]]) -> float:
    """Seconds of one loop, with all threads at once."""
    with ThreadPoolExecutor(len(works)) as pool:

        def once(loops: int) -> float:
            began = perf_counter()
            for _ in pool.map(lambda run: run(loops), works):
                pass
            return perf_counter() - began

        once(1)
        loops = max(1, round(SECONDS_PER_ROUND / once(1)))
        return min(once(loops) for _ in range(ROUNDS)) / loops
