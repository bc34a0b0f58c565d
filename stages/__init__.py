"""The six stages of the pipeline, each run as `python -m stages.NAME`."""

import sys
from collections.abc import Callable

from toygpt.errors import InputError


def run(stage: Callable[[], None]) -> None:
    """Run a stage; what its user can mend ends it with one message, not a traceback."""
    try:
        stage()
    except InputError as error:
        sys.exit(f"error: {error}")
