"""What is special about each baseline. The laws that they keep, as every model does, are in `test_laws*`."""

import math

import pytest
import torch
from torch import Tensor, nn

from tokenturing import state as states
from tokenturing.baselines import (
    GRU,
    LSTM,
    FullTransformer,
    Memoryless,
    MinGRU,
    RecurrentTransformer,
    Retrieval,
    TemporalMixer,
    WindowTransformer,
)
from tokenturing.baselines.causal import DECAYS
from tokenturing.baselines.embedding import StepEmbedding
from tokenturing.baselines.history import timeline
from tokenturing.baselines.min_gru import recur
from tokenturing.errors import OptionError
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.scan import step_by_step, without_absent
from tokenturing.testing.trees import pad

B, T, N, D, R, W = 3, 9, 3, 16, 2, 4
COMMON = {"input_tokens": N, "read_tokens": R}
MODELS = {
    "LSTM": lambda **o: LSTM(D, layers=2, hidden=12, **COMMON | o),
    "GRU": lambda **o: GRU(D, layers=2, hidden=12, **COMMON | o),
    "MinGRU": lambda **o: MinGRU(D, layers=2, hidden=12, **COMMON | o),
    "Memoryless": lambda **o: Memoryless(D, **COMMON | o),
    "WindowTransformer": lambda **o: WindowTransformer(D, 2, 2, window=W, **COMMON | o),
    "FullTransformer": lambda **o: FullTransformer(D, 2, 2, **COMMON | o),
    "RecurrentTransformer": lambda **o: RecurrentTransformer(D, 4, 2, 2, **COMMON | o),
    "TemporalMixer": lambda **o: TemporalMixer(D, window=W, **COMMON | o),
    "Retrieval": lambda **o: Retrieval(D, 2, 2, nearest=3, **COMMON | o),
}
CHUNKED = ("MinGRU", "WindowTransformer", "FullTransformer", "Retrieval")
GROWING = [name for name, make in MODELS.items() if make().growing]
every = pytest.mark.parametrize("name", MODELS)


def build(name: str, **options) -> RecurrentModel:
    torch.manual_seed(0)
    return MODELS[name](**options).eval()


def tokens(rows: int = B, steps: int = T, seed: int = 1) -> Tensor:
    return torch.randn(rows, steps, N, D, generator=torch.Generator().manual_seed(seed))


def flags(probability: float, *shape: int, seed: int = 2) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < probability


def assert_same(a, b, tolerance: float = 1e-5) -> None:
    """Equal states, growing leaves compared up to columns of zeros."""
    for (name, left), (_, right) in zip(states.leaves(a), states.leaves(b), strict=True):
        padded = pad([left, right])
        torch.testing.assert_close(padded[0], padded[1], rtol=tolerance, atol=tolerance, msg=name)


def gradients(model: RecurrentModel, y: Tensor, state) -> dict[str, Tensor]:
    """Of a loss on the outputs and on the last state."""
    model.zero_grad()
    loss = (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    loss = loss + sum(leaf.square().sum() for _, leaf in states.leaves(state) if leaf.is_floating_point())
    loss.backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def assert_close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def run_steps(model: RecurrentModel, x: Tensor, mask: Tensor | None = None):
    state, outputs = model.initial_state(len(x)), []
    for t in range(x.shape[1]):
        y, state = model.step(x[:, t], state, token_mask=None if mask is None else mask[:, t])
        outputs.append(y)
    return torch.stack(outputs, 1), state


def run_chunks(model: RecurrentModel, x: Tensor, sizes: tuple[int, ...], **per_step: Tensor):
    state, outputs, start = None, [], 0
    for size in sizes:
        part = {k: v[:, start : start + size] for k, v in per_step.items()}
        y, state = model(x[:, start : start + size], state, **part)
        outputs.append(y)
        start += size
    return torch.cat(outputs, 1), state


@every
def test_memory_reaches_the_output_except_where_there_is_none(name):
    """If no model remembered, the laws of streams would say little."""
    model, x = build(name), tokens()
    changed = x.clone()
    changed[:, -2] = tokens(seed=9)[:, -2]
    difference = (model(x)[0][:, -1] - model(changed)[0][:, -1]).abs().max()
    assert (difference == 0) if name == "Memoryless" else (difference > 1e-4)


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_side_by_side_equal_the_scan(name, monkeypatch):
    """The readable twin is the scan itself, one step after another."""
    model, x = build(name), tokens(5, 20)
    monkeypatch.setattr(model, "longest_segment", 7)
    mask, reset, active = flags(0.7, 5, 20, N), flags(0.15, 5, 20, seed=3), flags(0.7, 5, 20, seed=4)
    y, state = model(x, None, reset, active, mask)
    twin, twin_state = step_by_step(model, model.initial_state(5), without_absent(x, mask), mask, reset, active)
    assert_close(y, twin)
    assert_same(state, twin_state)
    expected = gradients(model, twin, twin_state)
    for key, gradient in gradients(model, *model(x, None, reset, active, mask)).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=2e-5, msg=key)


@every
def test_an_ill_step_harms_nobody_who_does_not_see_it(name):
    """Neither its past, nor other rows, nor its own row once it is reset; in the cache or in the call."""
    model, x = build(name), tokens()
    with_nan = x.clone()
    with_nan[0, 5] = torch.nan
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[0, 7] = True
    whole = model(with_nan, None, reset)
    for y, state in (whole, run_chunks(model, with_nan, (6, 3), reset=reset)):
        expected, after = model(x, None, reset)
        assert y[0, 5].isnan().any(), "but it does not hide its own illness"
        assert name == "Memoryless" or y[0, 6].isnan().any()
        healthy = torch.ones(B, T, dtype=torch.bool)
        healthy[0, 5:7] = False
        assert_close(y[healthy], expected[healthy])
        assert_same(state, after)


def test_timeline_counts_active_steps_since_the_reset():
    reset = torch.tensor([[False, False, True, False, False]])
    active = torch.tensor([[True, False, True, True, False]])
    times = timeline(torch.tensor([10]), 5, reset, active)
    assert times.position.tolist() == [[10, 11, 0, 1, 2]]


@pytest.mark.parametrize("name", GROWING)
def test_a_call_drops_columns_that_no_row_uses(name):
    model = build(name)
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, -1] = True
    _, state = model(tokens(), None, reset)
    _, after = model(tokens(steps=2), state)
    longest = int(after.steps.max())
    assert longest == 3
    assert after[0].shape[1] <= longest + model.config.get("nearest", 0)


# Each by itself


def recurrent_twin(model, kind: type[nn.RNNBase]) -> nn.RNNBase:
    """torch.nn's own layer with the same weights."""
    layer = model.layers[0]
    twin = kind(D, model.hidden, batch_first=True)
    for ours, theirs in ((layer.input, "ih_l0"), (layer.recurrent, "hh_l0")):
        getattr(twin, f"weight_{theirs}").data.copy_(ours.weight)
        getattr(twin, f"bias_{theirs}").data.copy_(ours.bias)
    return twin


@pytest.mark.parametrize(("kind", "twin"), [(LSTM, nn.LSTM), (GRU, nn.GRU)])
def test_recurrent_layer_equals_torch(kind, twin):
    torch.manual_seed(0)
    model = kind(D, hidden=12, **COMMON)
    nn.init.normal_(model.layers[0].recurrent.bias)
    y, state = model(tokens())
    embedding, layer = model.embedding(tokens()), model.layers[0]
    hidden, last = recurrent_twin(model, twin)(layer.norm(embedding))
    assert_close(y, model.head(embedding + layer.out(hidden)))
    last = last if isinstance(last, tuple) else (last,)
    for ours, theirs in zip(state, last, strict=True):
        assert_close(ours[:, 0], theirs[0])


def test_gates_begin_by_keeping():
    assert (LSTM(D).layers[0].input.bias.view(4, D)[1] == 1).all()
    assert (GRU(D).layers[0].input.bias.view(3, D)[1] == 1).all()
    assert (MinGRU(D).layers[0].input.bias.view(2, D)[0] == 1).all()
    kept = MinGRU(D, horizon=1000).layers[0].input.bias.view(2, D)[0]
    assert 0 < kept.min() < kept.max() < math.log(1000)
    write, forget = LSTM(D, horizon=1000).layers[0].input.bias.view(4, D)[:2]
    assert 0 < forget.min() < forget.max() < math.log(1000)
    assert torch.equal(write, -forget)
    with pytest.raises(OptionError, match="horizon"):
        GRU(D, horizon=1)


def test_the_scan_is_the_recurrence_one_step_after_the_other():
    """In outputs and gradients, over lengths about powers of two; the states before resets may hold NaN."""
    generator = torch.Generator().manual_seed(5)
    for steps in (1, 2, 3, 8, 9, 64):
        decay, added = torch.rand(2, B, steps, D, generator=generator, dtype=torch.float64)
        start, reset = torch.randn(B, D, generator=generator, dtype=torch.float64), flags(0.2, B, steps)
        reset[0], reset[1, 0], reset[2] = False, True, False
        start[1] = torch.nan
        parts = [part.requires_grad_() for part in (decay, added, start)]
        hidden, twin = parts[2], []
        for t in range(steps):
            hidden = decay[:, t] * torch.where(reset[:, t, None], 0.0, hidden) + added[:, t]
            twin.append(hidden)
        expected, came = torch.stack(twin, 1), recur(*parts, reset)
        assert_close(came, expected, 1e-12)
        for ours, theirs in zip(*(torch.autograd.grad(y.cos().sum(), parts) for y in (came, expected)), strict=True):
            assert_close(ours, theirs, 1e-12)
        if steps > 1:
            assert (recur(*parts)[0] - recur(*parts, ~reset)[0]).abs().max() > 1e-3, "but resets matter"


def test_min_gru_is_the_papers_equations():
    torch.manual_seed(0)
    model = MinGRU(D, hidden=12, **COMMON).double()
    x, layer = tokens(steps=70).double(), model.layers[0]
    embedding = model.embedding(x)
    keep, candidate = layer.input(layer.norm(embedding)).chunk(2, dim=-1)
    update, hidden, outputs = 1 - keep.sigmoid(), torch.zeros(B, 12).double(), []
    for t in range(70):
        hidden = (1 - update[:, t]) * hidden + update[:, t] * candidate[:, t]
        outputs.append(model.head(embedding[:, t] + layer.out(hidden)))
    y, state = model(x)
    assert_close(y, torch.stack(outputs, 1), 1e-12)
    assert_close(state.hidden[:, 0], hidden, 1e-12)


def test_a_pause_of_the_min_gru_shields_parameters_from_what_it_holds():
    """NaN in the inputs of paused steps, or in the state of a row that pauses throughout, reaches no gradient."""
    model, x, active = build("MinGRU"), tokens(), flags(0.7, B, T)
    active[1] = False
    ill, state = x.masked_fill(~active[..., None, None], torch.nan), model.initial_state(B)
    state.hidden[1] = torch.nan
    found = []
    for inputs, start in ((x, model.initial_state(B)), (ill, state)):
        y, following = model(inputs, start, active=active)
        assert torch.equal(following.hidden[1].nan_to_num(7), start.hidden[1].nan_to_num(7))
        found.append(gradients(model, y, (following.hidden[[0, 2]],)))
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key]), key
    assert model(ill)[0].isnan().any(), "but it would without the pause"


def attend_readably(model, x: Tensor, window: int) -> Tensor:
    """The causal Transformer over one whole sequence [T, D], a query and a head at a time."""
    for block in model.blocks:
        query, key, value = block.query_key_value(block.attention_norm(x)).chunk(3, dim=-1)
        size = D // block.heads
        heads = []
        for head in range(block.heads):
            part = slice(head * size, (head + 1) * size)
            q, k, v = query[:, part], key[:, part], value[:, part]
            slope, *near = block.kernel[head]
            rows = []
            for t in range(len(x)):
                seen = range(max(0, t - window + 1), t + 1)
                sharpness = 1 + block.sharpness[head, 0, 0] * math.log(len(seen))
                scores = [sharpness * (q[t] @ k[j]) / math.sqrt(size) + slope * math.log1p(t - j) for j in seen]
                for weight, decay in zip(near, DECAYS, strict=True):
                    scores = [score + weight * math.exp((j - t) / decay) for score, j in zip(scores, seen, strict=True)]
                rows.append(torch.stack(scores).softmax(0) @ v[list(seen)])
            heads.append(torch.stack(rows))
        x = x + block.out(torch.cat(heads, dim=-1))
        x = x + block.mlp(block.mlp_norm(x))
    return model.head(x)


@pytest.mark.parametrize("name", ["WindowTransformer", "FullTransformer"])
def test_causal_attention_equals_the_readable_one_however_often_the_ring_wraps(name):
    model, x = build(name), tokens(1, 3 * W + 2)
    for block in model.blocks:
        nn.init.normal_(block.kernel)
    window = W if name == "WindowTransformer" else 10**9
    expected = attend_readably(model, model.embedding(x)[0], window)
    assert_close(model(x)[0][0], expected)
    assert_close(run_steps(model, x)[0][0], expected)


def test_a_window_that_holds_everything_is_the_full_transformer():
    full, x = build("FullTransformer"), tokens()
    options = full.config | {"window": T}
    window = WindowTransformer(**options).eval()
    window.load_state_dict(full.state_dict())
    assert_close(window(x)[0], full(x)[0])
    narrow = WindowTransformer(**options | {"window": T - 1}).eval()
    narrow.load_state_dict(full.state_dict())
    assert_close(narrow(x)[0][:, : T - 1], full(x)[0][:, : T - 1])
    assert (narrow(x)[0][:, -1] - full(x)[0][:, -1]).abs().max() > 1e-5


def test_the_ring_holds_the_newest_steps_in_their_places():
    model = build("WindowTransformer")
    state = model.initial_state(1)
    for t in range(2 * W + 1):
        _, following = model.step(tokens(1)[:, t % T], state)
        changed = (following.cache != state.cache).flatten(2).any(2)[0]
        assert changed.nonzero().flatten().tolist() == [t % W]
        state = following


@pytest.mark.parametrize("steps", [W * 1000, W * 10**9])
def test_distances_are_exact_after_any_number_of_steps(steps):
    model, x = build("WindowTransformer"), tokens()
    start = model.initial_state(B)
    early = model(x, start._replace(steps=torch.full((B,), W)))[0]
    late = model(x, start._replace(steps=torch.full((B,), steps)))[0]
    assert_close(early, late)


def retrieval_pieces(model: Retrieval, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return model.query_key_value(model.norm(model.embedding(x)[0])).chunk(3, dim=-1)


def test_retrieval_with_room_for_all_is_full_softmax_attention():
    few = build("Retrieval")
    model = Retrieval(**few.config | {"nearest": T}).eval()
    more = Retrieval(**few.config | {"nearest": 2 * T}).eval()
    for twin in (model, more):
        twin.load_state_dict(few.state_dict())
    x = tokens(1)
    assert_close(model(x)[0], more(x)[0])
    assert (model(x)[0] - few(x)[0]).abs().max() > 1e-5
    query, key, value = retrieval_pieces(model, x)
    entries = torch.stack([key, value], 1)[None]
    found = model.look_up(query[None], entries, model.initial_state(1), timeline(torch.zeros(1).long(), T))
    for t in range(1, T):
        age = torch.arange(t, 0, -1)
        scores = key[:t] @ query[t] / math.sqrt(D) - model.slope * age.log1p()
        assert_close(found.weights[0, t] @ found.values[0, t], scores.softmax(0) @ value[:t])


def test_retrieval_finds_the_nearest_and_their_ages():
    model, x = build("Retrieval"), tokens(1, 20)
    query, key, value = retrieval_pieces(model, x)
    _, state = model(x[:, :19])
    entries = torch.stack([key[19:], value[19:]], 1)[None]
    found = model.look_up(query[None, 19:], entries, state, timeline(state.steps, 1))
    age = torch.arange(19, 0, -1)
    scores = key[:19] @ query[19] / math.sqrt(D) - model.slope * age.log1p()
    best = scores.topk(3).indices
    assert torch.equal(found.ages[0, 0], age[best])
    assert_close(found.values[0, 0], value[best])


def test_temporal_mixer_is_the_mixer_over_the_newest_steps():
    model, x = build("TemporalMixer"), tokens(1)
    embedding = model.embedding(x)[0]
    padded = torch.cat([model.before.expand(W - 1, D), embedding])
    expected = torch.stack([model.head(model.mixer(padded[None, t : t + W])[0, -1]) for t in range(T)])
    assert_close(model(x)[0][0], expected)


def test_step_embedding_reads_nothing_in_absent_tokens():
    for input_tokens in (N, None):
        embedding = StepEmbedding(D, input_tokens)
        x, mask = torch.randn(N, D), torch.tensor([True, False, True])
        x[1] = 0
        masked = embedding(x, mask)
        if input_tokens is None:
            assert_close(masked, embedding(x[mask]))
        assert embedding(x, torch.zeros(N, dtype=torch.bool)).isfinite().all()
