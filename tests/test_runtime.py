"""Exported models against the models that they were made of, step by step, with resets and masks in the middle."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import save_file

import tokenturing as tt
from tokenturing import runtime
from tokenturing.errors import CheckpointError, OptionError, ShapeError
from tokenturing.export import cached_runtime, eager, export_onnx
from tokenturing.tasks.recall.model import RecallInput, RecallModel
from tokenturing.tasks.recall.world.questions import ANSWERS, QUESTIONS

NAMES = ["gated-look-back", "gated", "write-mlp", "LSTM", "WindowTransformer"]
ROWS, STEPS = 3, 200


def numpy(state: Any) -> list[np.ndarray]:
    return [leaf.numpy() for _, leaf in tt.state.leaves(state)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folders: dict[str, Path] = {}

    def get(name: str) -> tuple[Any, runtime.Runtime]:
        model = zoo.build(name, dtype=torch.float32)
        if name not in folders:
            folders[name] = export_onnx(model, tmp_path_factory.mktemp("export") / name)
        return model, runtime.load(folders[name], threads=1)

    return get


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_graph_does_what_the_model_does(name: str, exported: Any) -> None:
    model, machine = exported(name)
    rng = np.random.default_rng(0)
    x = zoo.inputs(model, ROWS, STEPS)
    masks = torch.from_numpy(rng.random(x.shape[:3]) < 0.8)
    masks[..., 0] = True
    resets = torch.from_numpy(rng.random((ROWS, STEPS)) < 0.02)
    state, ours = model.initial_state(ROWS), machine.initial_state(ROWS)
    different = False
    for step in range(STEPS):
        state = tt.state.merge(resets[:, step], model.initial_state(ROWS), state)
        ours = machine.reset(ours, resets[:, step].numpy())
        mask = masks[:, step]
        unmasked, _ = machine.step(x[:, step].numpy(), ours)
        y, state = model.step(x[:, step], state, token_mask=mask)
        found, ours = machine.step(x[:, step].numpy(), ours, token_mask=mask.numpy())
        np.testing.assert_allclose(found, y.numpy(), rtol=1e-4, atol=1e-5)
        different |= not np.allclose(unmasked, y.numpy(), rtol=1e-4, atol=1e-5)
    for leaf, wanted in zip(ours, numpy(state), strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-5)
    assert different, "masks make no difference, so this test could not fail for them"


def test_rows_are_taken_stacked_and_reset(exported: Any) -> None:
    model, machine = exported("gated-look-back")
    x = zoo.inputs(model, ROWS, 2).numpy()
    _, state = machine.step(x[:, 0], machine.initial_state(ROWS))
    kept = [leaf.copy() for leaf in state]
    together, _ = machine.step(x[:, 1], state)
    for row in range(ROWS):
        alone, _ = machine.step(x[row : row + 1, 1], runtime.take(state, [row]))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)
    turned = runtime.stack([runtime.take(state, [2]), runtime.take(state, [0, 1])])
    assert np.array_equal(turned.memory, state.memory[[2, 0, 1]])
    fresh = machine.reset(state, [1])
    assert np.array_equal(fresh.memory[1], machine.initial_state(1).memory[0])
    assert np.array_equal(fresh.memory[[0, 2]], state.memory[[0, 2]])
    assert all(np.array_equal(a, b) for a, b in zip(kept, state, strict=True)), "a state was changed"


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecallModel, Path]:
    torch.manual_seed(0)
    options = {"width": 16, "memory_tokens": 4, "read_tokens": 2, "layers": 1, "heads": 2, "look_back": 2}
    model = RecallModel("TokenTuringMachine", options, len(QUESTIONS), len(ANSWERS), 3).eval()
    return model, export_onnx(model, tmp_path_factory.mktemp("export") / "recall")


@torch.no_grad()
def test_eyes_ears_and_answers_come_along(recall: tuple[RecallModel, Path]) -> None:
    model, folder = recall
    machine = runtime.load(folder, threads=1)
    rng = np.random.default_rng(1)
    state, ours = model.initial_state(2), machine.initial_state(2)
    for _ in range(20):
        inputs = RecallInput(
            torch.from_numpy(rng.random((2, 32, 32), np.float32)),
            torch.from_numpy(rng.standard_normal((2, 96), np.float32)),
            torch.tensor([True, False]),
            torch.tensor([True, True]),
        )
        y, state = model.step(inputs, state)
        found, ours = machine.step([part.numpy() for part in inputs], ours)
        np.testing.assert_allclose(found, y.numpy(), rtol=1e-4, atol=1e-5)
        for asked in (1, 5):  # any number of questions
            questions = torch.from_numpy(rng.integers(0, len(QUESTIONS), (2, asked)))
            wanted = model.ask(y, questions).numpy()
            for runs in (machine, eager(model)):
                np.testing.assert_allclose(runs.ask(y.numpy(), questions.numpy()), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted[:, 0] - wanted[:, 1]).max() > 1e-3, "all answers are the same, so this test could not fail"
    assert json.loads((folder / "runtime.json").read_text())["fingerprint"] == tt.fingerprint(model)


@pytest.mark.parametrize(
    ("y", "questions", "said"),
    [
        (np.zeros((2, 3, 16), np.float32), [[0], [0]], r"y has shape \[2, 3, 16\]"),
        (np.zeros((2, 2, 16)), [[0], [0]], "float64"),
        (np.zeros((2, 2, 16), np.float32), [0, 0], r"queries have shape \[2\]"),
        (np.zeros((2, 2, 16), np.float32), [[0]], r"\[B=2, Q\]"),
        (np.zeros((2, 2, 16), np.float32), [[0.5], [0]], "float64"),
        (np.zeros((2, 2, 16), np.float32), [[0], [19]], "0 to 18"),
        (np.zeros((2, 2, 16), np.float32), [[-1], [0]], "0 to 18"),
    ],
)
def test_misshapen_queries_are_refused(y: np.ndarray, questions: Any, said: str, recall: tuple[RecallModel, Path]) -> None:
    machine = runtime.load(recall[1], threads=1)
    with pytest.raises(ShapeError, match=said):
        machine.ask(y, questions)
    assert machine.ask(np.zeros((2, 2, 16), np.float32), [[0], [18]]).shape == (2, 1, len(ANSWERS)), "the control"


def test_a_model_without_answers_says_so(exported: Any) -> None:
    with pytest.raises(ShapeError, match="TokenTuringMachine answers no queries"):
        exported("gated")[1].ask(np.zeros((1, 1), np.float32), [[0]])


def test_it_runs_without_torch(recall: tuple[RecallModel, Path]) -> None:
    code = (
        "import sys, numpy as np, tokenturing as tt; m = tt.runtime.load(sys.argv[1]);"
        "x = {n: np.zeros((1, *s[1:]), t) for n, (s, t) in m.inputs.items()};"
        "y, _ = m.step(x, m.initial_state(1)); print(y.shape, m.ask(y, [[3]]).shape[-1], 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(recall[1])], capture_output=True, text=True)
    assert run.stdout.split("\n")[0] == f"(1, 2, 16) {len(ANSWERS)} False", run.stderr


@torch.no_grad()
def test_what_is_perceived_comes_along(recall: tuple[RecallModel, Path]) -> None:
    model, folder = recall
    rng = np.random.default_rng(2)
    frames, sound = rng.random((2, 32, 32), np.float32), rng.standard_normal((2, 96), np.float32)
    inputs = [frames, sound, np.ones(2, bool), np.ones(2, bool)]
    tokens = model.perception(torch.from_numpy(frames), torch.from_numpy(sound))
    seen, heard = (logits.softmax(-1).numpy() for logits in model.perception.classify(tokens))
    for machine in (runtime.load(folder, threads=1), eager(model)):
        y, _, perceived = machine.step_and_perceive(inputs, machine.initial_state(2))
        np.testing.assert_allclose(perceived["seen"], seen, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(perceived["heard"], heard, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(machine.step(inputs, machine.initial_state(2))[0], y)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3, "all is the same, so this test could not fail"


@pytest.mark.parametrize("name", ["gated-look-back", "FullTransformer", "GRU"])
@torch.no_grad()
def test_the_eager_twin_does_what_the_model_does(name: str) -> None:
    model = zoo.build(name, dtype=torch.float32)
    machine = eager(model)
    x = zoo.inputs(model, ROWS, 6)
    state, ours = model.initial_state(ROWS), machine.initial_state(ROWS)
    for step in range(6):
        y, state = model.step(x[:, step], state)
        found, ours = machine.step(x[:, step].numpy(), ours)
        np.testing.assert_allclose(found, y.numpy(), rtol=1e-5, atol=1e-6)
    again, _ = machine.step(x[:, 5].numpy(), machine.initial_state(ROWS))
    assert not np.allclose(again, found), "the state makes no difference, so this test could not fail"


def test_an_export_is_made_once_and_again_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENTURING_CACHE", str(tmp_path))
    model = zoo.build("GRU", dtype=torch.float32)
    first = cached_runtime(model, threads=1)
    (graph,) = tmp_path.glob("*/model.onnx")
    made = graph.stat().st_mtime_ns
    cached_runtime(model, threads=1)
    assert graph.stat().st_mtime_ns == made
    graph.write_bytes(b"nonsense")
    x = zoo.inputs(model, ROWS, 1)[:, 0].numpy()
    second = cached_runtime(model, threads=1)
    np.testing.assert_array_equal(first.step(x, first.initial_state(ROWS))[0], second.step(x, second.initial_state(ROWS))[0])
    other = zoo.build("LSTM", dtype=torch.float32)
    cached_runtime(other, threads=1)
    assert len(list(tmp_path.glob("*/model.onnx"))) == 2


@torch.no_grad()
def test_bfloat16_stays_near_and_ages_stay_exact(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = zoo.build("gated", dtype=torch.float32)
    machine = runtime.load(export_onnx(model, tmp_path / "small", precision="bf16"), threads=1)
    x = zoo.inputs(model, ROWS, 1)[:, 0]
    state = model.initial_state(ROWS)
    old = state._replace(age=state.age + 4000)  # in bfloat16 4001 and 4002 would be the same
    y, following = model.step(x, old)
    found, ours = machine.step(x.numpy(), machine.initial_state(ROWS)._replace(age=old.age.numpy()))
    assert np.abs(found - y.numpy()).max() < 0.1 * y.abs().max().item()
    kept = following.age.numpy() > 4000
    assert kept.any()
    np.testing.assert_array_equal(ours.age[kept], following.age.numpy()[kept])


def test_errors_say_what_was_expected(exported: Any) -> None:
    _, machine = exported("gated-look-back")
    state, x = machine.initial_state(2), np.zeros((2, 3, 16), np.float32)
    with pytest.raises(ShapeError, match=r"x has shape \[2, 4, 16\].*expected \[B, 3, 16\]"):
        machine.step(np.zeros((2, 4, 16), np.float32), state)
    with pytest.raises(ShapeError, match="type int64"):
        machine.step(np.zeros((2, 3, 16), np.int64), state)
    with pytest.raises(ShapeError, match="memory has shape"):
        machine.step(x, machine.initial_state(1))
    with pytest.raises(ShapeError, match="state"):
        machine.step(x, None)
    with pytest.raises(ShapeError, match="different numbers of rows"):
        machine.step(x, state, token_mask=np.ones((1, 3), bool))
    with pytest.raises(ShapeError, match="expected \\['x'\\]"):
        machine.step({"y": x}, state)
    with pytest.raises(ShapeError, match="2 inputs: expected"):
        machine.step([x, x], state)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="grows"):
        export_onnx(zoo.build("FullTransformer", dtype=torch.float32), tmp_path / "full")
    with pytest.raises(OptionError, match="Linear"):
        export_onnx(torch.nn.Linear(2, 2), tmp_path / "linear")
    with pytest.raises(OptionError, match="function"):
        export_onnx(lambda: None, tmp_path / "function")  # type: ignore[arg-type]
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="holds no export"):
        export_onnx(zoo.small(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("runtime.json", b'{"format_version": 99}', "newer"),
        ("runtime.json", b"{", "not JSON"),
        ("runtime.json", b"[]", "expected a JSON object"),
        ("model.onnx", b"nonsense", "export the model again"),
        ("initial_state.safetensors", b"nonsense", "export the model again"),
    ],
)
def test_broken_folders(file: str, content: bytes, message: str, recall: tuple[RecallModel, Path], tmp_path: Path) -> None:
    for path in recall[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        runtime.load(tmp_path)


def test_a_state_of_another_model_is_refused(recall: tuple[RecallModel, Path], tmp_path: Path) -> None:
    for path in recall[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file({"other": torch.zeros(1)}, tmp_path / "initial_state.safetensors")
    with pytest.raises(CheckpointError, match="other"):
        runtime.load(tmp_path)
