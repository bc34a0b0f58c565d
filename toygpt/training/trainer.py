"""Train a GPT with Lightning, on whatever this machine has."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from toygpt.data.batches import Batch, TrainingBatches, spread_batches
from toygpt.data.token_files import TokenIds
from toygpt.model.device import device_for
from toygpt.pipeline.errors import InputError
from toygpt.training.checkpoints import CheckpointFiles, Checkpoints
from toygpt.training.module import Training
from toygpt.training.progress import Progress
from toygpt.training.report import Curves

if TYPE_CHECKING:
    from toygpt.model.gpt import GPT
    from toygpt.pipeline.params import RuntimeParams, TrainParams

# A curve of so many points is as smooth as a screen can show.
POINTS_PER_CURVE = 200


@dataclass(frozen=True)
class Outcome:
    """What came of a training."""

    steps: int
    tokens: int
    train_loss: float  # nats per token, mean since the last point of the curve
    validation_loss: float  # nats per token


class Portions:
    """The batches that one device gets, small enough for its memory, in order.

    Lightning adds up the gradients of `per_step` portions before each optimizer step.
    """

    def __init__(
        self,
        batches: TrainingBatches,
        *,
        num_steps: int,
        per_step: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.batches = batches
        self.num_steps = num_steps
        self.per_step = per_step
        self.rank = rank
        self.world_size = world_size
        self._num_given = 0

    def __len__(self) -> int:
        return self.num_steps * self.per_step

    def __iter__(self) -> Iterator[Batch]:
        rows = self.batches.batch_size // self.world_size // self.per_step
        for number in range(self._num_given, len(self)):
            step, portion = divmod(number, self.per_step)
            first = (self.rank * self.per_step + portion) * rows
            self._num_given = number + 1
            yield self.batches.batch(step, rows=slice(first, first + rows))

    def state_dict(self) -> dict[str, int]:
        """Return where we are, for a checkpoint; those are kept between two steps."""
        return {"steps_given": self._num_given // self.per_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        self._num_given = state["steps_given"] * self.per_step


class ValidationBatches:
    """The part of the validation split that is looked at each time."""

    def __init__(
        self, tokens: TokenIds, *, block_size: int, batch_size: int, max_tokens: int
    ) -> None:
        self.tokens = tokens
        self.block_size = block_size
        self.batch_size = batch_size
        self.max_tokens = max_tokens

    def __iter__(self) -> Iterator[Batch]:
        return spread_batches(
            self.tokens,
            block_size=self.block_size,
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
        )


def train(
    model: GPT,
    train_tokens: TokenIds,
    validation_tokens: TokenIds,
    *,
    params: TrainParams,
    runtime: RuntimeParams,
    seed: int,
    curves: Curves,
    checkpoints: Checkpoints | None = None,
    resume_from: Path | None = None,
) -> Outcome:
    """Train the model in place, from the beginning or from a checkpoint.

    Raises:
        InputError: The batch cannot be shared among the devices, they have too little
            memory for their portions, or training diverged.
        Stopped: A signal came; what is done is kept.
    """
    block_size = model.config.block_size
    tokens_per_step = params.batch_size * block_size
    max_steps = num_steps(params, block_size)
    batches = TrainingBatches(
        train_tokens, block_size=block_size, batch_size=params.batch_size, seed=seed
    )

    torch.set_float32_matmul_precision("high")
    _silence_what_nobody_can_act_on()
    try:
        trainer = Trainer(
            accelerator=runtime.accelerator,
            devices=runtime.devices,
            num_nodes=runtime.num_nodes,
            strategy=runtime.strategy,
            precision=resolve_precision(params.precision, runtime.accelerator),
            max_steps=max_steps,
            max_epochs=-1,
            log_every_n_steps=1,  # the module decides when there is something new
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            logger=curves,
            callbacks=[Progress(), *([checkpoints] if checkpoints else [])],
            plugins=[CheckpointFiles(checkpoints.unfinished)] if checkpoints else None,
            deterministic=runtime.deterministic,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise InputError(
            f"this machine or its Slurm job does not fit `runtime` in params.yaml: "
            f"{error}"
        ) from None
    # Lightning makes an exit code of 0 of a SIGTERM; Interruption makes more of it.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    per_step = accumulation_steps(
        params.batch_size, trainer.world_size, runtime.micro_batch_size
    )
    trainer.accumulate_grad_batches = per_step
    num_validations = max(1, round(params.max_tokens / params.validate_every_tokens))
    validate_every_steps = math.ceil(max_steps / num_validations)
    trainer.val_check_interval = validate_every_steps * per_step

    module = Training(
        model,
        params,
        seed=seed,
        log_every_steps=max(1, max_steps // POINTS_PER_CURVE),
        validate_every_steps=validate_every_steps,
        compile_model=should_compile(runtime.compile, trainer),
        curves=curves,
        checkpoints=checkpoints,
    )
    validation = ValidationBatches(
        validation_tokens,
        block_size=block_size,
        batch_size=min(params.batch_size, runtime.micro_batch_size),
        max_tokens=params.validation_tokens,
    )
    try:
        trainer.fit(
            module,
            Portions(
                batches,
                num_steps=max_steps,
                per_step=per_step,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
            ),
            validation,
            ckpt_path=resume_from,
            weights_only=True,
        )
        if max_steps % validate_every_steps:
            trainer.validate(module, validation, verbose=False)
    except torch.OutOfMemoryError:
        raise InputError(
            f"the {trainer.strategy.root_device.type} has too little memory for "
            f"portions of {batches.batch_size // trainer.world_size // per_step} "
            f"sequences: lower runtime.micro_batch_size in params.yaml"
        ) from None
    assert module.train_loss is not None, "the last step is always reported"
    assert module.validation_loss is not None, "the last step is always validated"
    return Outcome(
        steps=max_steps,
        tokens=max_steps * tokens_per_step,
        train_loss=module.train_loss,
        validation_loss=module.validation_loss,
    )


def num_steps(params: TrainParams, block_size: int) -> int:
    """Return how many optimizer steps it takes to see all tokens."""
    return math.ceil(params.max_tokens / (params.batch_size * block_size))


def is_rank_zero() -> bool:
    """Say whether this process speaks for all that train together, one per device."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]


def accumulation_steps(batch_size: int, num_devices: int, micro_batch_size: int) -> int:
    """Return in how many equal portions each device works through a batch.

    Raises:
        InputError: The devices cannot share the batch evenly.
    """
    per_device, rest = divmod(batch_size, num_devices)
    if rest or not per_device:
        raise InputError(
            f"train.batch_size ({batch_size}) must be a multiple of the number of "
            f"devices ({num_devices}; see runtime.devices in params.yaml)"
        )
    return next(
        portions
        for portions in range(1, per_device + 1)
        if per_device % portions == 0 and per_device // portions <= micro_batch_size
    )


def resolve_precision(
    precision: Literal["auto", "32-true", "bf16-mixed"], accelerator: str
) -> Literal["32-true", "bf16-mixed"]:
    """Return the precision that `auto` stands for on this machine.

    bf16 halves the memory that the matrix products move and doubles their speed where
    the processor multiplies it natively; elsewhere it is emulated, and slower.
    """
    if precision != "auto":
        return precision
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        abilities = torch.cpu.get_capabilities()
        if abilities.get("avx512_bf16") or abilities.get("amx_bf16"):
            return "bf16-mixed"
    return "32-true"


def resolve_attention(
    attention: Literal["auto", "flash", "from_scratch"],
    *,
    precision: Literal["32-true", "bf16-mixed"],
    accelerator: str,
) -> Literal["flash", "from_scratch"]:
    """Return the attention that `auto` stands for on this machine.

    Flash attention is faster where memory is slow beside the processor: on GPUs. On
    CPUs, PyTorch's own kernel does not use the instructions for bf16 on its way back:
    plain matrices train a seventh faster (docs/performance.md).
    """
    if attention != "auto":
        return attention
    if precision == "bf16-mixed" and device_for(accelerator).type == "cpu":
        return "from_scratch"
    return "flash"


def should_compile(choice: bool | str, trainer: Trainer) -> bool:
    """Compile where it pays: a minute of work that a short training on a CPU is not."""
    if choice == "auto":
        return trainer.strategy.root_device.type == "cuda"
    return bool(choice)


def _silence_what_nobody_can_act_on() -> None:
    """Drop Lightning's advertisements, and advice that does not fit our loaders."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        # Where Slurm is installed: the command in the hint is not one that works.
        r"The `srun` command is available on your system but is not used.*",
        r".*`?isinstance\(treespec, LeafSpec\)`? is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=message)
