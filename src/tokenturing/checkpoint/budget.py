"""How much a model may take while it is built, when all that is known is its file."""

import math
from typing import Any

from torch import Tag, Tensor, strided

from tokenturing.checkpoint.draws import QuickMode
from tokenturing.checkpoint.tensors import TensorFile
from tokenturing.checkpoint.weights import count
from tokenturing.errors import CheckpointError


class Budget(QuickMode):
    """Stops the building of a model far larger than its file, before it is allocated.

    Building on the meta device would do too, but loads 2 s of torch's compiler.

    Args:
        file: the file of its weights.
        unsaved: the numbers in buffers that are not in the file.
    """

    SLACK, SLACK_CALLS, SLACK_DRAWS = 2**24, 20_000, 2000
    """numbers, calls that make tensors, and calls that draw random numbers, besides: for tables that are not saved"""

    def __init__(self, file: TensorFile, unsaved: int):
        super().__init__()
        self.file = file
        self.numbers = 4 * (count(file.shapes) + unsaved) + self.SLACK
        self.calls = 16 * len(file.shapes) + self.SLACK_CALLS
        self.draws = 16 * len(file.shapes) + self.SLACK_DRAWS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        asked = _asked(func._schema.name.removeprefix("aten::"), given)
        if asked is not None:
            self._spend(numbers=asked, calls=1)
        if Tag.nondeterministic_seeded in func.tags:
            self._spend(draws=1)
        result = func(*args, **kwargs)
        if asked is None and isinstance(result, Tensor):
            had = max((_held(each) for each in given.values() if isinstance(each, Tensor)), default=0)
            if (now := _held(result)) > had:  # it grew, as sums of a row and a column do
                self._spend(numbers=now)
        return result

    def _spend(self, *, numbers: int = 0, calls: int = 0, draws: int = 0) -> None:
        self.numbers, self.calls, self.draws = self.numbers - numbers, self.calls - calls, self.draws - draws
        if min(self.numbers, self.calls, self.draws) < 0:
            raise CheckpointError(
                f"{self.file.path} has {len(self.file.shapes)} tensors and its config describes a far "
                "larger model: they do not belong together; fetch or save both again"
            )


def _asked(name: str, given: dict[str, Any]) -> int | None:
    """The numbers in the tensor that a call makes by the sizes it is given; None: it makes none by sizes."""
    if name == "arange":
        span = (given["end"] - given.get("start", 0)) / given.get("step", 1)
        return max(0, math.ceil(span)) if math.isfinite(span) else 0
    if name == "eye":
        return given["n"] * given.get("m", given["n"])
    if name in ("tril_indices", "triu_indices"):
        return given["row"] * given["col"]
    if name == "repeat":
        return given["self"].numel() * math.prod(given["repeats"])
    for size in ("steps", "window_length", "n"):
        if isinstance(given.get(size), int):
            return given[size]
    if "size" in given and (name.startswith("new_") or not any(isinstance(each, Tensor) for each in given.values())):
        return math.prod(given["size"])
    return None


def _held(tensor: Tensor) -> int:
    """The numbers that a tensor keeps: of one that is expanded, those before."""
    if tensor.layout != strided:
        return 0
    return tensor.untyped_storage().nbytes() // max(1, tensor.element_size())
