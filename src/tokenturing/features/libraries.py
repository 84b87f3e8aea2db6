"""Vision models of timm and transformers as frozen encoders, on PyTorch. Nothing is fetched unless it is asked for."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenturing.errors import MissingExtraError, OptionError

TIMM_WEIGHTS = "model.safetensors"
"""which timm's models on the hub have; older formats are not read, as they could hold code"""
NOT_OURS = ("pooler",)
"""parts of a model that are not used here: their weights may be missing"""


class LibraryEncoder:
    """A module and how pictures are prepared for it.

    Args:
        name: of the encoder.
        module: in evaluation mode.
        size: S.
        crop: share of the square's side that it sees.
        mean: of red, green and blue.
        deviation: the same.
        left_out: names of weights that take no part in `hash`.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        size: int,
        crop: float,
        mean: Iterable[float],
        deviation: Iterable[float],
        left_out: Iterable[str] = (),
    ):
        self.name, self.frame_size, self.crop = name, size, crop
        self._module = module.eval().requires_grad_(False)
        mean, deviation = [float(part) for part in mean], [float(part) for part in deviation]
        self._mean, self._deviation = (torch.tensor(part).view(1, 3, 1, 1) for part in (mean, deviation))
        self.hash = _hash_of(module, left_out, (size, round(crop, 6), mean, deviation))

    def vector(self, frame: np.ndarray) -> np.ndarray:
        """[S, S, 3] -> [F]."""
        return self._run(frame)[0].numpy()

    def map(self, frame: np.ndarray) -> np.ndarray:
        """[S, S, 3] -> [h, w, F]."""
        return self._run(frame)[1].numpy()

    @torch.inference_mode()
    def _run(self, frame: np.ndarray) -> tuple[Tensor, Tensor]:
        picture = torch.from_numpy(np.ascontiguousarray(frame, np.float32)).permute(2, 0, 1)[None]
        vector, parts = self._parts((picture - self._mean) / self._deviation)
        return vector.float(), parts.float()

    def _parts(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """[1, 3, S, S] -> the vector [F] and the map [h, w, F]."""
        raise NotImplementedError


class Timm(LibraryEncoder):
    """A model of timm's.

    Args:
        model: its name, or a folder with its config.json and model.safetensors.
        download: whether its weights may be fetched.
    """

    def __init__(self, model: str, download: bool = False):
        try:
            import timm
        except ImportError as error:
            raise MissingExtraError("timm", "vision") from error
        if Path(model).is_dir():
            module = timm.create_model(f"local-dir:{model}", pretrained=True, num_classes=0)
        else:
            if not timm.is_model(model):
                near = ", ".join(timm.list_models(f"*{model.split('.')[0][:8]}*")[:5]) or "vit_tiny_patch16_224"
                raise OptionError(f"encoder='timm:{model}': timm has no such model: expected one such as {near}")
            weights = _timm_weights(timm, model, download)
            module = timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": weights})
        about = timm.data.resolve_model_data_config(module)
        super().__init__(
            f"timm:{model}", module, int(about["input_size"][-1]), float(about["crop_pct"]), about["mean"], about["std"]
        )

    def _parts(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        module: Any = self._module
        found = module.forward_features(picture)
        vector = module.forward_head(found, pre_logits=True)[0]
        return vector, _as_map(found, getattr(module, "num_prefix_tokens", 0), picture)


def _timm_weights(timm: Any, model: str, download: bool) -> str:
    """The file of a model's weights on this machine."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository = (timm.get_pretrained_cfg(model) or timm.models.PretrainedCfg()).hf_hub_id
    if not repository:
        raise OptionError(f"encoder='timm:{model}': timm has no weights of it on the hub: expected another, or the folder of one")
    if download:
        return hf_hub_download(repository, TIMM_WEIGHTS)
    found = try_to_load_from_cache(repository, TIMM_WEIGHTS)
    if not isinstance(found, str):
        raise OptionError(
            f"encoder='timm:{model}': its weights are not on this machine: expected them in the hub's cache folder; add "
            "--download to fetch them"
        )
    return found


class Transformers(LibraryEncoder):
    """A vision model of transformers', or the vision part of one of pictures and text.

    Args:
        model: its name, or its folder.
        download: whether it may be fetched.
    """

    def __init__(self, model: str, download: bool = False):
        try:
            from transformers import AutoModel
            from transformers.image_processing_base import ImageProcessingMixin
        except ImportError as error:
            raise MissingExtraError("transformers", "vision") from error
        named = f"encoder='transformers:{model}'"
        options = {"local_files_only": not download}
        try:
            about, _ = ImageProcessingMixin.get_image_processor_dict(model, **options)
            module, report = AutoModel.from_pretrained(model, use_safetensors=True, output_loading_info=True, **options)
        except (OSError, ValueError) as error:
            hint = "" if download or Path(model).is_dir() else "; add --download to fetch it"
            reason = str(error).strip().splitlines()[0]
            raise OptionError(f"{named}: {reason}: expected a vision model and its preprocessor_config.json{hint}") from error
        missing = list(report["missing_keys"])
        if foreign := [key for key in missing if not any(part in key for part in NOT_OURS)]:
            raise OptionError(f"{named}: its file has no weights {foreign[0]}: expected a whole model")
        size, crop = _sizes(about, named)
        mean, deviation = (about.get(key) or [0.5] * 3 for key in ("image_mean", "image_std"))
        if about.get("do_normalize") is False:
            mean, deviation = [0.0] * 3, [1.0] * 3
        super().__init__(
            f"transformers:{model}", getattr(module, "vision_model", module), size, crop, mean, deviation, left_out=missing
        )

    def _parts(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        found = self._module(pixel_values=picture).last_hidden_state
        if found.ndim == 4:
            return found[0].mean((1, 2)), found[0].permute(1, 2, 0)
        first = _prefix(found.shape[1])
        parts = _as_map(found, first, picture)
        return (found[0, 0] if first else found[0].mean(0)), parts


def _sizes(about: Mapping[str, Any], named: str) -> tuple[int, float]:
    """Of a preprocessor's description: the frame's side, and the share of the square's side that it shows."""
    shortest, cropped = _side(about.get("size")), _side(about.get("crop_size"))
    if not shortest and not cropped:
        raise OptionError(f"{named}: its preprocessor_config.json has no size: expected one")
    if about.get("do_center_crop") and cropped and shortest:
        return cropped, min(cropped / shortest, 1.0)
    return shortest or cropped, 1.0


def _side(size: Any) -> int:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height") or 0
    return int(size or 0)


def _prefix(tokens: int) -> int:
    """How many tokens stand before those of the parts of a square picture: at least so many that the rest is a square."""
    return tokens - int(tokens**0.5) ** 2


def _as_map(found: Tensor, prefix: int, picture: Tensor) -> Tensor:
    """Features of a batch of one, [1, F, h, w], [1, h, w, F] or [1, n, F] -> [h, w, F]."""
    if found.ndim == 4:
        first_is_width = found.shape[2] == found.shape[3]
        return found[0].permute(1, 2, 0) if first_is_width else found[0]
    parts = found[0, prefix:]
    side = int(len(parts) ** 0.5)
    if found.ndim != 3 or side * side != len(parts):
        raise OptionError(f"this model makes {list(found.shape)} of a picture {list(picture.shape)}: expected a map or its parts")
    return parts.unflatten(0, (side, side))


def _hash_of(module: nn.Module, left_out: Iterable[str], prepared: object) -> str:
    digest, left_out = hashlib.sha256(repr(prepared).encode()), set(left_out)
    for name, tensor in sorted(module.state_dict().items()):
        if not any(name.endswith(other) or other.endswith(name) for other in left_out):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
