"""Turn the errors of DVC's Python interface into one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from toygpt.pipeline.errors import InputError, first_line


@contextmanager
def dvc_errors() -> Iterator[None]:
    """Turn the errors of DVC into one line, and leave out its warnings of them.

    Raises:
        InputError: DVC cannot read the project, or there is no Git repository.
    """
    from dvc.exceptions import DvcException  # dvc.scm.SCMError is one, too

    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except DvcException as error:
        raise InputError(f"DVC: {first_line(error)}") from None
    finally:
        logger.setLevel(level)
