"""How the learning rate rises, stays, and falls as tokens are seen."""

from torch.optim import Optimizer

from toygpt.training.settings import TrainSettings


class Schedule:
    """Sets the learning rates of an optimizer; new, it has them at their highest."""

    def __init__(
        self, optimizer: Optimizer, params: TrainSettings, *, tokens_per_step: int
    ) -> None:
        self.optimizer = optimizer
        self.params = params
        self.tokens_per_step = tokens_per_step
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    def set_learning_rates(self, step: int) -> None:
        """Set the learning rates that are due after so many steps."""
        multiplier = learning_rate_multiplier(
            step * self.tokens_per_step,
            tokens_per_step=self.tokens_per_step,
            max_tokens=self.params.max_tokens,
            warmup_tokens=self.params.warmup_tokens,
            decay_tokens=self.params.decay_tokens,
        )
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * multiplier


def learning_rate_multiplier(
    tokens_seen: int,
    *,
    tokens_per_step: int,
    max_tokens: int,
    warmup_tokens: int,
    decay_tokens: int,
) -> float:
    """Return the fraction of the highest learning rate that the next step uses.

    A straight rise keeps the first, blind steps short; a straight fall at the end lets
    the weights settle. Between them the rate is constant, so that training can be
    prolonged from there (Hu et al., 2024, "MiniCPM", section 4,
    https://arxiv.org/abs/2404.06395). Everything is counted in tokens: another batch
    size leaves the schedule where it was. A training too short for the whole fall
    begins it right after the rise.
    """
    warmup = decay = 1.0
    if warmup_tokens:
        warmup = (tokens_seen + tokens_per_step) / warmup_tokens
    if decay_tokens:
        fall = min(decay_tokens, max_tokens - warmup_tokens)
        decay = (max_tokens - tokens_seen) / fall
    return max(0.0, min(1.0, warmup, decay))
