"""The recall task: what is true when, streams that can be resumed, splits that do not mix."""

from typing import Any

import numpy as np
import pytest
import torch
from recall_bank import tiny_bank

from tokenturing.errors import OptionError
from tokenturing.evaluate.figures import wilson
from tokenturing.tasks.digits import SPLITS, digit_images
from tokenturing.tasks.recall.answer import AnswerHead
from tokenturing.tasks.recall.model import PerceivedInput, RecallModel
from tokenturing.tasks.recall.probe import Probe, delay_steps, evaluate
from tokenturing.tasks.recall.world.plans import RecallConfig
from tokenturing.tasks.recall.world.questions import (
    AGO,
    ANSWERS,
    ASKED,
    BOUND,
    FACTS,
    HEARD,
    KINDS,
    NOTHING,
    QUESTIONS,
    UNASKED,
    Truth,
    ago_class,
    ask_all,
)
from tokenturing.tasks.recall.world.scenes import SIZE
from tokenturing.tasks.recall.world.streams import RecallStreams

SEEN = [(5, 9, 3), (20, 24, 7), (40, 44, 3)]
HEARD_AT = [(2, 1), (22, 8), (30, 4)]


def at(step: int) -> Truth:
    truth = Truth(SEEN, HEARD_AT)
    truth.advance(step)
    return truth


def test_nothing_yet_before_the_first_event():
    truth = at(1)
    assert truth.facts() == [NOTHING] * FACTS
    assert truth.bound(3) == NOTHING


def test_all_that_is_asked_in_training_has_its_true_answer():
    _, targets, _ = next(RecallStreams(range(6), 200, tiny_bank(), RecallConfig(curriculum=(1, 0)), seed=3))
    questions, answers = ask_all(targets.facts, targets.question, targets.answer)
    assert questions.shape == answers.shape == (6, 200, ASKED)
    own = targets.question >= 0
    told = (questions == targets.question[..., None]) & (answers != UNASKED)
    agree = answers == targets.answer[..., None]
    assert agree[told & own[..., None]].all(), "what is asked twice is answered alike"
    assert (told.any(-1) == own).all(), "the stream's own questions are among them"
    fixed, bound = answers[..., : BOUND + 1], answers[..., BOUND + 1 :]
    assert (fixed != UNASKED).all()
    assert (bound != UNASKED).float().mean() > 0.4
    assert ((bound != UNASKED) & (bound != NOTHING)).float().mean() > 0.3, "and not because nothing happened"


def test_each_digit_of_the_last_four_sightings_is_asked_about_once():
    truth = Truth([(step, step, digit) for step, digit in enumerate([1, 2, 7, 5, 7, 3])], [(0, 9), (4, 8)])
    truth.advance(10)
    facts, nothing = torch.tensor(truth.facts()), torch.tensor(-1)
    asked = dict(zip(*(part.tolist() for part in ask_all(facts, nothing, nothing)), strict=True))
    bound = {q - BOUND: a for q, a in asked.items() if BOUND <= q < AGO and a != UNASKED}
    assert bound == {3: 8, 7: 8, 5: 9} == {digit: truth.bound(digit) for digit in (3, 7, 5)}
    own = ask_all(facts, torch.tensor(BOUND + 4), torch.tensor(NOTHING))
    assert [int(part[-1]) for part in own] == [BOUND + 4, NOTHING], "that 4 was never seen, the facts do not tell"
    assert truth.bound(2) is None, "2 was seen too long ago"


def test_order_is_counted_from_the_newest():
    truth = at(60)
    assert [truth.seen_last(k) for k in (1, 2, 3, 4)] == [3, 7, 3, NOTHING]
    assert [truth.heard_last(k) for k in (1, 2, 3, 4)] == [4, 8, 1, NOTHING]


def test_a_digit_counts_from_its_first_step_and_a_word_from_the_step_given():
    assert at(4).seen_last(1) == NOTHING
    assert at(5).seen_last(1) == 3
    assert at(21).heard_last(1) == 1
    assert at(22).heard_last(1) == 8


def test_binding_takes_the_last_word_before_or_while_a_digit_was_last_seen():
    assert at(21).bound(7) == 1, "visible now, and nothing newer heard"
    assert at(23).bound(7) == 8, "heard while it is visible"
    assert at(35).bound(7) == 8, "what was heard after it was gone does not count"
    assert at(60).bound(3) == 4, "the last sighting of the digit counts"
    assert at(60).bound(9) == NOTHING, "never seen"


def test_binding_asks_only_of_the_last_four_sightings():
    truth = Truth([(10 * i, 10 * i + 3, i) for i in range(6)], [(1, 5)])
    truth.advance(100)
    assert truth.bound(1) is None
    assert truth.bound(2) == 5


@pytest.mark.parametrize(
    ("steps", "answer"),
    [
        (0, "under 1 s"),
        (12, "under 1 s"),
        (13, "1 to 4 s"),
        (50, "4 to 16 s"),
        (750, "16 to 64 s"),
        (7500, "over 64 s"),
    ],
)
def test_classes_of_how_long_ago(steps: int, answer: str):
    assert ANSWERS[ago_class(steps)] == answer


def test_how_long_ago_begins_when_the_digit_is_gone():
    assert ANSWERS[at(24).answer(AGO)] == "under 1 s"
    assert ANSWERS[at(24 + 13).answer(AGO)] == "1 to 4 s"


def test_images_of_the_splits_do_not_mix():
    images = {split: {image.tobytes() for image in digit_images(split)[0]} for split in SPLITS}
    assert sum(map(len, images.values())) > 1700
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        # scikit-learn's digits hold no image twice, so that equal bytes would be the same image
        assert not images[one] & images[other]


def streams(seed: int = 3, **changes: object) -> RecallStreams:
    config = RecallConfig(shortest=30, longest=60, curriculum=(2, 2), **changes)  # type: ignore[arg-type]
    return RecallStreams(range(3), 25, tiny_bank(), config, seed=seed)


def test_streams_are_seeded_and_go_on_after_a_stop():
    ours, again, other = streams(), streams(), streams(seed=4)
    for _ in range(3):
        batch, same = next(ours), next(again)
        assert equal(batch, same)
    last = [next(other) for _ in range(3)][-1]
    assert not torch.equal(batch.inputs.sound, last.inputs.sound), "another seed, other streams"
    resumed = streams()
    resumed.restore(ours.state())
    for _ in range(4):
        assert equal(next(ours), next(resumed))
    assert not equal(next(ours), batch), "the control"


def equal(a: Any, b: Any) -> bool:
    """Whether two trees hold the same tensors."""
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else all(map(equal, a, b))


def test_what_is_asked_is_what_was_shown():
    row, rng = streams(without_modality=0.0), np.random.default_rng(0)
    sighted = 0
    for number in range(8):
        plan = row.planner.draw(rng, number)
        frames = row.renderer.frames([plan], [0], plan.steps, rng)[0]
        assert frames.shape == (plan.steps, SIZE, SIZE)
        assert frames.min() >= 0
        assert frames.max() <= 1
        visible = np.full(plan.steps, NOTHING)
        for sighting in plan.sightings:
            visible[sighting.first : sighting.last + 1] = sighting.digit
        shown = visible < NOTHING
        assert np.array_equal(plan.facts[shown, 0], visible[shown]), "a visible digit is the last seen one"
        bright = frames.flatten(1).amax(-1)
        if shown.any():
            sighted += 1
            assert bright[shown].mean() > bright[~shown].mean()
    assert sighted > 4


def test_missing_modalities_have_no_events():
    row = streams(without_modality=0.5)
    for _ in range(6):
        inputs, targets, _ = next(row)
        assert (targets.facts[..., :4][~inputs.has_frame] == NOTHING).all()
        assert (targets.facts[..., 4:8][~inputs.has_sound] == NOTHING).all()


def test_a_slower_pace_is_reached_by_and_by():
    planner = streams(mixed_pace=0.0).planner
    steps = [planner._pace(np.random.default_rng(row), number) for row in range(50) for number in (0, 1, 2, 3, 4)]
    paces = np.array(steps).reshape(50, 5)
    assert (paces[:, :2] == 0).all()
    assert (paces[:, 4] == 1).all()
    assert 0 < paces[:, 2].mean() < paces[:, 3].mean() < 1


def test_questions_have_names_and_kinds():
    assert len(QUESTIONS) == AGO + 1
    assert len(KINDS) == 10
    assert QUESTIONS[HEARD] == "heard 1 last"
    assert QUESTIONS[BOUND + 7] == "heard before 7 was seen"


def test_wilson_interval_against_known_values():
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 0) == (0.0, 1.0)


def test_delays_are_checked():
    assert delay_steps([0.5, 60, 600]) == [6, 750, 7500]
    for bad in ([], [0.0], [-1.0], [float("nan")], [1e9]):
        with pytest.raises(OptionError, match="expected seconds"):
            delay_steps(bad)


def test_probe_ends_where_it_says_and_asks_each_kind():
    probe = Probe(tiny_bank(), 8)
    for row, plan in enumerate(probe.plans):
        last_seen = max(s.last for s in plan.sightings) if plan.sightings else -1
        last_heard = max(w.counts_from for w in plan.spoken) - 1 if plan.spoken else -1
        assert (last_seen if row % 2 == 0 else last_heard) == probe.end
        assert max(last_seen, last_heard) == probe.end
    asked = probe.questions(probe.end + 6)
    assert {KINDS[kind] for kind, *_ in asked} == set(KINDS)
    for _, rows, questions, answers in asked:
        assert len(rows) == len(questions) == len(answers) == 4
        assert (answers >= 0).all()


def test_evaluation_counts_and_does_not_disturb():
    torch.manual_seed(0)
    model = RecallModel("GRU", {"width": 16}, len(QUESTIONS), len(ANSWERS), 0)
    rows = evaluate({"one": model, "two": model}, tiny_bank(), [0.5, 2.0], rows=6)
    assert rows["one"] == rows["two"]
    alone = evaluate({"one": model}, tiny_bank(), [2.0], rows=6)["one"]
    assert [r for r in rows["one"] if r.where["delay"] == 2.0] == alone, "asking at one delay changes nothing for the next"
    assert all(r.low <= r.value <= r.high for r in alone)
    assert {r.kind for r in alone} == set(KINDS)
    assert {r.count for r in alone} == {3, 6}


def test_what_is_not_recognised_is_not_remembered():
    torch.manual_seed(2)
    model = RecallModel("GRU", {"width": 16}, len(QUESTIONS), len(ANSWERS), 0)
    perception, raw = model.perception, torch.randn(5, 3, 64)
    there = torch.ones(5, dtype=torch.bool)
    adapted, empty = model.adapt(raw), model.adapt(torch.zeros_like(raw))

    def kept(seen: float, heard: float) -> list[bool]:
        """Whether the tokens of the frame and of the sound come through where a digit has these probabilities."""
        for head, probability in ((perception.seen, seen), (perception.heard, heard)):
            with torch.no_grad():
                head.weight.zero_()
                head.bias.fill_(np.log(probability / 10))
                head.bias[NOTHING] = np.log(1 - probability)
        tokens, mask = model.tokens(PerceivedInput(raw, there, there))
        assert mask.tolist() == [[True, True, True]] * 5, "nothing to be seen is something to know"
        assert ((tokens == adapted) | (tokens == empty)).all()
        return [bool((tokens[:, at] == adapted[:, at]).all()) for at in (slice(-1), -1)]

    assert kept(0.95, 0.6) == [True, True]
    assert kept(0.85, 0.4) == [False, False]
    assert kept(0.95, 0.4) == [True, False]


def test_one_question_is_answered_as_among_all():
    torch.manual_seed(0)
    model = RecallModel("GRU", {"width": 16}, len(QUESTIONS), len(ANSWERS), 0).eval()
    model.answer = AnswerHead(16, 3, len(QUESTIONS), len(ANSWERS))
    y, questions = torch.randn(4, 5, 3, 16), torch.arange(len(QUESTIONS)).expand(4, 5, -1)
    every = model.ask(y, questions)
    assert every.shape == (4, 5, len(QUESTIONS), len(ANSWERS))
    for question in (0, BOUND + 3, AGO):
        torch.testing.assert_close(model.ask(y, questions[..., question, None])[..., 0, :], every[..., question, :])
    torch.testing.assert_close(model.ask(y[2:3, 3], questions[2:3, 3]), every[2:3, 3], msg="of one row and step too")
    assert model.ask(y[:0], questions[:0]).shape == (0, 5, len(QUESTIONS), len(ANSWERS))
    assert (model.ask(y.flip(-2), questions) - every).abs().max() > 0.01, "each output token has its place"
    assert (model.ask(y.flip(0), questions) - every).abs().max() > 0.01, "of the tokens, not of the question alone"


def test_untrained_models_are_at_chance_and_do_not_see_the_answer():
    torch.manual_seed(1)
    model = RecallModel("GRU", {"width": 16}, len(QUESTIONS), len(ANSWERS), 0)
    rows = evaluate({"model": model}, tiny_bank(), [1.0], rows=60)["model"]
    assert np.mean([r.value for r in rows]) < 0.4
