"""Cases for the benchmarks' tests, in a file that is imported in no time.

Each runs in a process of its own, which imports this file.
"""

import os

from benchmarks.measure import EndRound


def works(end_round: EndRound, *, has_setting: bool = False) -> None:
    assert ("TOYGPT_TEST" in os.environ) == has_setting
    while True:
        sum(range(100_000))
        end_round()


def works_with_a_setting(end_round: EndRound) -> None:
    works(end_round, has_setting=True)


def gives_up(end_round: EndRound) -> None:
    end_round()
    end_round()
