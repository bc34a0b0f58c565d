"""Show how far training is, how fast, and how well."""

import sys
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """A bar in tokens on a terminal; elsewhere, a line at each validation.

    Args:
        total: Tokens of the whole training.
        initial: Tokens that were seen before it was resumed.
        is_shown: Whether this rank shows anything: rank zero does.
    """

    def __init__(self, *, total: int, initial: int, is_shown: bool) -> None:
        self._has_lines = is_shown and not sys.stderr.isatty()
        self._losses: dict[str, str] = {}
        self._bar: Any = tqdm(
            desc="train",
            total=total,
            initial=initial,
            unit="tok",
            unit_scale=True,
            disable=not is_shown or self._has_lines,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, num_tokens: int) -> None:
        """Move the bar: so many more tokens were seen."""
        self._bar.update(num_tokens)

    def show(self, **losses: float) -> None:
        """Show these losses from now on."""
        self._losses |= {name: f"{loss:.3f}" for name, loss in losses.items()}
        self._bar.set_postfix(self._losses, refresh=False)

    def print_line(self, tokens_seen: int) -> None:
        """Print the losses, where there is no bar to show them."""
        if self._has_lines:
            losses = ", ".join(f"{name} {loss}" for name, loss in self._losses.items())
            print(f"{tokens_seen:,} tokens: {losses}", flush=True)
