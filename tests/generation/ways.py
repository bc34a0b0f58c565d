"""Ways for the benchmarks' tests, in a file that is imported in no time.

Each runs in a process of its own, which imports where it comes from.
"""

import os

from benchmarks.measure import Lap


def works(lap: Lap) -> None:
    while True:
        sum(range(100_000))
        lap()


def works_with_a_setting(lap: Lap) -> None:
    assert os.environ["TOYGPT_TEST"] == "1"
    works(lap)


def gives_up(lap: Lap) -> None:
    lap()
    lap()
