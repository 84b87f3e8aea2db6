"""`from_pretrained`, `save_pretrained` and `push_to_hub`, as the Hugging Face Hub's own mixin has them.

The files are those that `huggingface_hub.PyTorchModelHubMixin` writes and reads. It is not a base class here,
because importing it takes 0.3 s and an HTTP client; huggingface_hub is imported when something is fetched or
pushed.
"""

import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from tokenturing.checkpoint.folder import find_folder, load_folder, save, shipped
from tokenturing.checkpoint.format import CONFIG, WEIGHTS
from tokenturing.errors import CheckpointError
from tokenturing.registry import OwnConfig

Model = TypeVar("Model", bound="HubMixin")

CARD = """---
library_name: tokenturing
tags:
- tokenturing
- token-turing-machine
- model_hub_mixin
- pytorch_model_hub_mixin
---

A `{name}` of tokenturing, Token Turing Machines for streams.

```python
import tokenturing as tt

model = tt.load("folder of this model")
```
"""


class HubMixin(nn.Module):
    """Models that come from the Hugging Face Hub and go there."""

    config = OwnConfig()

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
    ) -> Model:
        """A model from a folder, from the package or, by "owner/name", from the Hub; in evaluation mode.

        Args:
            name_or_folder: where to look, in this order.
            revision: a branch, tag or commit on the Hub.
            cache_dir: where downloads are kept; None: huggingface_hub's own place.
            token: for private models; None: the one that `hf auth login` stored.
            force_download: fetch again what is there already.
            local_files_only: fetch nothing.
            device: where to put the model.
        """
        name = str(name_or_folder)
        if Path(name).exists() or name in shipped():
            folder = find_folder(name)
        else:
            folder = _fetch(
                name,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        return load_folder(folder, cls, device=device)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push: Any,
    ) -> str | None:
        """`tokenturing.save` and a model card; with `push_to_hub`, pushed under `repo_id` as well."""
        folder = Path(save_directory)
        save(self, folder)
        card = folder / "README.md"
        if not card.exists():
            card.write_text(CARD.format(name=type(self).__name__), encoding="utf-8")
        return self.push_to_hub(repo_id or folder.name, **push) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using tokenturing",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Upload to the Hub, where the repository is made if need be; returns the address of the commit."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=branch)


def _fetch(repo_id: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        files = [CONFIG, WEIGHTS]
        return Path(snapshot_download(repo_id, allow_patterns=files, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        known = ", ".join(map(repr, shipped())) or "none"
        raise CheckpointError(
            f"{repo_id!r} is no folder, no model of the package ({known}) and cannot be had from the Hub "
            f"({error}): expected one of these"
        ) from error
