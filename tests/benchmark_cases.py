"""Cases for the benchmarks' tests, in a file that is imported in no time.

Each runs in a process of its own, which imports this file.
"""

import os

from benchmarks.measure import EndRound


def works(end_round: EndRound) -> None:
    while True:
        sum(range(100_000))
        end_round()


def works_with_a_setting(end_round: EndRound) -> None:
    assert os.environ["TOYGPT_TEST"] == "1"
    works(end_round)


def gives_up(end_round: EndRound) -> None:
    end_round()
    end_round()
