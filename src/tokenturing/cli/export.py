"""`tokenturing export`"""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from tokenturing.cli.options import argument
from tokenturing.errors import OptionError


def export(
    checkpoint: Annotated[Positional[str], argument("CHECKPOINT")],
    int8: bool = False,
    bf16: bool = False,
    out: Path | None = None,
) -> None:
    """Write a checkpoint's step as a graph for ONNX Runtime, its state among inputs and outputs.

    `tokenturing.runtime.load(FOLDER)` runs it in Python without torch.

    Args:
        checkpoint: the folder of a model or of its run, or the name of a shipped one.
        int8: large matrix products in 8 bits: a smaller file, and faster where the processor has instructions for it.
        bf16: matrix products in bfloat16, by OpenVINO: faster where the processor has instructions for it.
        out: the folder to write; runs/exports/NAME if not given.
    """
    from tokenturing.checkpoint import load
    from tokenturing.cli.common import display_names, model_folder
    from tokenturing.export import export_onnx
    from tokenturing.files import read_json
    from tokenturing.files.places import check_place

    if int8 and bf16:
        raise OptionError("--int8 --bf16: expected one of them")
    precision = "int8" if int8 else "bf16" if bf16 else "float32"
    if out is not None:
        check_place("--out", out, folder=True)
    model = load(model_folder(checkpoint))
    name = display_names([checkpoint])[0] + ("" if precision == "float32" else f"-{precision}")
    folder = export_onnx(model, out or Path("runs/exports") / name, precision=precision)
    size = sum(file.stat().st_size for file in folder.iterdir())
    off = read_json(folder / "runtime.json")["off"]
    print(f"{folder}: {size / 2**20:.1f} MiB; in Python: tokenturing.runtime.load({str(folder)!r})")
    print(f"on random inputs its y is off the model's by {off:.1g} of the largest value")
