"""A stand-in for a CUDA graph on a processor: it keeps kernels and addresses alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# What cannot be captured: it waits for the GPU, or draws random numbers.
FORBIDDEN = {
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.nondeterministic_seeded,
}


class Recording(TorchDispatchMode):
    """The operations of a step, with the tensors that they read and write.

    As when a graph is captured, nothing is changed by the step; as when it is replayed,
    each operation gets the same tensors and numbers, and writes to the same memory.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.kernels: list[str] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # an operation that is made of others is not a kernel itself
            output = func.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        assert can_be_captured(func, args), f"not in a graph: {func}"
        for argument, arg in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.before.append((arg, arg.clone()))
        output = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, output))
        name, returned = func.overloadpacket.__name__, func._schema.returns[0]
        is_view = returned.alias_info is not None and not returned.alias_info.is_write
        if not is_view and name != "_unsafe_view":  # nothing is computed for a view
            self.kernels.append(name)
        return output

    def undo(self) -> None:
        for tensor, content in reversed(self.before):
            tensor.copy_(content)

    def replay(self) -> None:
        for func, args, kwargs, output in self.calls:
            new = func(*args, **kwargs)
            outputs = zip(leaves(output), leaves(new), strict=True)
            for tensor, content in outputs:
                if tensor.data_ptr() != content.data_ptr():  # else a view, or in place
                    tensor.copy_(content)


def can_be_captured(func: Any, args: Any) -> bool:
    if (
        func.overloadpacket is torch.ops.aten.index
    ):  # numbers have a shape, masks do not
        return all(index is None or index.dtype == torch.long for index in args[1])
    is_attention = "scaled_dot_product" in func.name()  # random only with dropout
    return is_attention or not FORBIDDEN.intersection(func.tags)


def leaves(output: Any) -> list[Tensor]:
    parts = output if isinstance(output, tuple | list) else [output]
    return [part for part in parts if isinstance(part, Tensor)]


def record(step: Callable[[], Tensor]) -> tuple[Recording, Callable[[], Tensor]]:
    """Return the recording of a step, and what replays it."""
    with Recording() as recording:
        logits = step()
    recording.undo()

    def replay() -> Tensor:
        recording.replay()
        return logits

    return recording, replay
