"""A model that says what goes on in a video, step by step, from the features that it was trained on."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tokenturing.errors import OptionError, ShapeError, choose
from tokenturing.features.frozen import Encoder, Tokens, open_encoder, view_of
from tokenturing.media.steps import MediaStep
from tokenturing.media.view import View
from tokenturing.runtime import Runtime
from tokenturing.tasks.contract import Answer, Event

NOW = "now"
"""the only question: what goes on?"""
SHARE = 0.5
"""from which on an activity goes on, where several may"""
TOLD = 12
"""activities that it names at the beginning"""
MADE_BY = ("encoder", "hash", "rate", "grid")


def about_of(model: Any) -> Mapping[str, Any]:
    """What the notes of a model on the runtime say of its activities: "classes", "sigmoid" and "source".

    Raises:
        OptionError: they do not.
    """
    about = getattr(model, "notes", {}).get("activity")
    if not isinstance(about, dict) or not isinstance(about.get("classes"), list) or not about["classes"]:
        raise OptionError("this model does not say what it was trained on: expected one that `tokenturing train` trained")
    return about


def view_for(model: Any) -> View:
    """What it wants to see; the default where it does not watch videos."""
    source = about_of(model).get("source") or {}
    if not set(MADE_BY) <= set(source):
        return View()
    return view_of(encoder_of(source), float(source["rate"]))


def encoder_of(source: Mapping[str, Any]) -> Encoder:
    """The encoder that a model was trained on.

    Raises:
        OptionError: here it is another one.
    """
    encoder = _opened(str(source["encoder"]))
    if encoder.hash != source["hash"]:
        raise OptionError(
            f"the model was trained on features of {source['encoder']} with the hash {source['hash']}, and here that has "
            f"{encoder.hash}: expected the same weights"
        )
    return encoder


@lru_cache(2)
def _opened(name: str) -> Encoder:
    return open_encoder(name)


class ActivitySession:
    """One stream that is labelled.

    Args:
        model: on the runtime, with inputs "features" [B, N, F].
        about: of the model.
    """

    questions: Sequence[str] = (NOW,)
    rotation: Sequence[str] = ()

    def __init__(self, model: Runtime, about: Mapping[str, Any]):
        if set(model.inputs) != {"features"}:
            raise OptionError(f"the model takes {', '.join(model.inputs)}: expected features only")
        self.model, self.state = model, model.initial_state(1)
        self.labels = [str(name) for name in about["classes"]]
        """C of them"""
        self.several = bool(about.get("sigmoid"))
        """whether several may be right at once"""
        self.shares: np.ndarray | None = None
        """float [C], of the last step; they sum to 1 where one is right at a time"""
        more = f" and {len(self.labels) - TOLD} more" if len(self.labels) > TOLD else ""
        self.knows = f"{len(self.labels)} activities: {', '.join(self.labels[:TOLD])}{more}"
        self._going: frozenset[int] = frozenset()
        if model.description["output"] != [len(self.labels)]:
            raise OptionError(f"the model gives {model.description['output']} scores for {len(self.labels)} activities")

    def take_features(self, features: np.ndarray) -> list[Event]:
        """Go on by one step, float32 [N, F] -> activities that begin."""
        inputs = {"features": features[None]}
        return self.absorb(inputs, *self.model.step_and_perceive(inputs, self.state))

    def absorb(
        self, inputs: Mapping[str, np.ndarray], y: np.ndarray, state: Any, perceived: Mapping[str, np.ndarray]
    ) -> list[Event]:
        """Take what the model made of a step -> activities that begin."""
        if not np.isfinite(y).all():
            raise ShapeError("the scores of a step are not finite: expected finite features, and a model whose weights are whole")
        self.state = state
        scores = y[0].astype(np.float64)
        weights = np.exp(scores - scores.max())
        self.shares = 1 / (1 + np.exp(-scores)) if self.several else weights / weights.sum()
        before, self._going = self._going, self._now()
        return [Event("sees", self.labels[index], float(self.shares[index])) for index in sorted(self._going - before)]

    def _now(self) -> frozenset[int]:
        assert self.shares is not None
        return frozenset(np.flatnonzero(self.shares > SHARE).tolist()) if self.several else frozenset([int(self.shares.argmax())])

    def ask(self, *questions: str) -> list[Answer]:
        """What goes on as of the last step taken; no answers before the first."""
        for question in questions:
            choose("question", question, self.questions)
        if self.shares is None:
            return []
        names = ", ".join(self.labels[index] for index in sorted(self._now())) or "nothing"
        sure = min((float(self.shares[index]) for index in self._now()), default=1 - float(self.shares.max()))
        return [Answer(question, names, sure) for question in questions]

    def snapshot(self) -> dict[str, np.ndarray]:
        """All that it needs to go on."""
        shares = np.zeros(len(self.labels)) if self.shares is None else self.shares
        state = {f"state.{name}": leaf for name, leaf in zip(self.state._fields, self.state, strict=True)}
        return {"began": np.array([self.shares is not None]), "shares": shares, **state}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Go on from where `snapshot()` was taken."""
        self.shares = kept["shares"] if kept["began"][0] else None
        self._going = self._now() if self.shares is not None else frozenset()
        self.state = type(self.state)(*(kept[f"state.{name}"] for name in self.state._fields))


class VideoSession(ActivitySession):
    """One that watches pictures.

    Args:
        model: on the runtime.
        media: that it watches.

    Raises:
        OptionError: the model was not trained on videos, or the media do not show what it wants to see.
    """

    def __init__(self, model: Runtime, media: Any):
        about = about_of(model)
        super().__init__(model, about)
        source = about.get("source") or {}
        if not set(MADE_BY) <= set(source):
            raise OptionError(
                "the model was not trained on features of videos: expected a recording like those it was trained on"
            )
        if not media.has_video:
            raise OptionError(f"{media.name} has no pictures: expected a video, a camera or a stream of pictures")
        encoder = encoder_of(source)
        if getattr(media, "view", None) != view_of(encoder, float(source["rate"])):
            raise OptionError(f"the media do not show what {source['encoder']} sees: open them with the view of the task")
        self._tokens = Tokens(encoder, int(source["grid"]))
        shape = model.inputs["features"][0][1:]
        if tuple(shape) != self._tokens.shape:
            raise OptionError(f"the model takes features {list(shape)}: {source['encoder']} makes {list(self._tokens.shape)}")

    def encode(self, step: MediaStep) -> dict[str, np.ndarray]:
        """The features [1, N, F] of a step."""
        return {"features": self._tokens.take(step.frame)[None]}

    def take(self, step: MediaStep) -> list[Event]:
        """Go on by one step -> activities that begin."""
        return self.take_features(self.encode(step)["features"][0])
