"""The Hugging Face Hub: files go both ways, and nothing is fetched unasked."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import small

import tokenturing as tt
from tokenturing.errors import CheckpointError


def test_hub_files_go_both_ways(tmp_path: Path) -> None:
    """What we write their mixin reads, and what it writes we read."""
    hub = pytest.importorskip("huggingface_hub")

    class Theirs(hub.PyTorchModelHubMixin, tt.TokenTuringMachine):  # type: ignore[name-defined]
        pass

    model = small()
    model.save_pretrained(tmp_path / "ours")
    assert "library_name: tokenturing" in (tmp_path / "ours" / "README.md").read_text()
    theirs = Theirs.from_pretrained(tmp_path / "ours")
    assert theirs.config == model.config
    torch.testing.assert_close(dict(theirs.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    theirs.save_pretrained(tmp_path / "theirs")
    again = tt.TokenTuringMachine.from_pretrained(tmp_path / "theirs")
    assert tt.fingerprint(again) == tt.fingerprint(model)


def test_hub_snapshot_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    model = small()
    tt.save(model, tmp_path / "snapshot")
    asked: dict[str, Any] = {}

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    loaded = tt.TokenTuringMachine.from_pretrained("someone/something", revision="v1")
    assert tt.fingerprint(loaded) == tt.fingerprint(model)
    assert asked["repo_id"] == "someone/something"
    assert asked["revision"] == "v1"
    assert asked["allow_patterns"] == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="expected a GRU"):
        tt.baselines.GRU.from_pretrained("someone/something")


def test_hub_push_uploads_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    uploaded: list[str] = []

    class Api:
        def __init__(self, token: str | None = None):
            pass

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, folder_path: Path, **_: Any) -> str:
            uploaded.extend(sorted(os.listdir(folder_path)))
            return "address"

    monkeypatch.setattr(hub, "HfApi", Api)
    assert small().push_to_hub("someone/something", private=True) == "address"
    assert uploaded == ["README.md", "config.json", "model.safetensors"]


def test_name_that_is_nowhere_is_refused() -> None:
    with pytest.raises(CheckpointError, match="cannot be had from the Hub"):
        tt.TokenTuringMachine.from_pretrained("no/such-model", local_files_only=True)
