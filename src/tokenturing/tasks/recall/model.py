"""A model for the recall task: eyes and ears, any recurrent model as its memory, and a head that answers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.errors import OptionError, closest
from tokenturing.models.contract import Input, RecurrentModel
from tokenturing.models.machine import TokenTuringMachine
from tokenturing.registry import BASELINES, find_class
from tokenturing.tasks.around import AroundMemory
from tokenturing.tasks.recall.answer import AnswerHead
from tokenturing.tasks.recall.eyes.perception import FRAME_TOKENS, SOUND_FEATURES, Perception
from tokenturing.tasks.recall.world.scenes import SIZE
from tokenturing.tasks.recall.world.streams import RecallInput

INPUT_TOKENS = FRAME_TOKENS + 1
"""two of the frame, one of the sound"""


class PerceivedInput(NamedTuple):
    """A `RecallInput` after the perception: tokens in place of frames and sound."""

    tokens: Tensor
    """[B, T, 3, D]"""
    has_frame: Tensor
    has_sound: Tensor


def memory_class(kind: str) -> type[RecurrentModel]:
    """The class of recurrent models of that name.

    Raises:
        OptionError: there is none.
    """
    kinds = ("TokenTuringMachine", *BASELINES)
    if kind not in kinds:
        raise OptionError(f"memory kind {kind!r} is not known: expected {closest(kind, kinds)}")
    return find_class(kind)  # type: ignore[return-value]


def build_memory(kind: str, options: dict[str, Any]) -> RecurrentModel:
    """The recurrent model of that name."""
    return memory_class(kind)(**options, input_tokens=INPUT_TOKENS)


class RecallModel(AroundMemory):
    """Perception, a memory and a head: frames and sound in; questions can be asked of what comes out.

    Args:
        memory: class name of the recurrent model ("TokenTuringMachine", "LSTM", ...).
        options: its constructor's arguments.
        questions: how many questions there are.
        answers: C.
        facts: how many facts the training head reads off at every step, each one of the answers; 0: no such head.
        perception: width of the perception's tokens.
    """

    task = "recall"

    def __init__(
        self,
        memory: str,
        options: dict[str, Any],
        questions: int,
        answers: int,
        facts: int,
        perception: int = 64,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            "memory": memory,
            "options": options,
            "questions": questions,
            "answers": answers,
            "facts": facts,
            "perception": perception,
        }
        self.perception = Perception(perception)
        self.memory = build_memory(memory, options)
        width = self.memory.width
        self.adapt = nn.Linear(perception, width)
        self.queries, self.facts, self.answers = questions, facts, answers
        self.answer = AnswerHead(width, self.memory.output_tokens, questions, answers)
        self.fact = nn.Linear(self.memory.output_tokens * width, answers * facts) if facts else None

    def train(self, mode: bool = True) -> "RecallModel":
        """Training mode for all but a frozen perception."""
        super().train(mode)
        self.perception.train(mode and any(p.requires_grad for p in self.perception.parameters()))
        return self

    def signature(self) -> dict[str, Input]:
        """What a step takes."""
        return {
            "frames": Input((SIZE, SIZE), torch.float32),
            "sound": Input((SOUND_FEATURES,), torch.float32),
            "has_frame": Input((), torch.bool),
            "has_sound": Input((), torch.bool),
        }

    def observe(self, inputs: RecallInput) -> tuple[PerceivedInput, dict[str, Tensor]]:
        """The inputs as a step takes them too, and what is in them: shares [B, 11] of the ten digits and of none."""
        here = self.perceive(inputs)
        seen, heard = (logits.softmax(-1) for logits in self.perception.classify(here.tokens))
        return here, {"seen": seen, "heard": heard}

    def perceive(self, inputs: RecallInput) -> PerceivedInput:
        """What the eyes and ears make of the inputs."""
        return PerceivedInput(self.perception(inputs.frames, inputs.sound), inputs.has_frame, inputs.has_sound)

    def tokens(self, inputs: RecallInput | PerceivedInput) -> tuple[Tensor, Tensor]:
        """Tokens [..., N, D] and their mask bool [..., N]."""
        if not isinstance(inputs, PerceivedInput):
            inputs = self.perceive(inputs)
        perceived = self.adapt(self.perception.salient(inputs.tokens))
        seen = inputs.has_frame.unsqueeze(-1).expand(*inputs.has_frame.shape, FRAME_TOKENS)
        mask = torch.cat([seen, inputs.has_sound.unsqueeze(-1)], dim=-1)
        return perceived, mask

    def step(self, inputs: RecallInput | PerceivedInput, state: Any) -> tuple[Tensor, Any]:
        """One step [B, ...] -> the memory's output tokens y [B, R, D], of which `ask` answers, and the next state."""
        tokens, mask = self.tokens(inputs)
        return self.memory.step(tokens, state, token_mask=mask)

    def step_and_watch(self, inputs: PerceivedInput, state: Any) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """The same, and what it read and wrote where the memory has slots."""
        tokens, mask = self.tokens(inputs)
        if isinstance(self.memory, TokenTuringMachine):
            return self.memory.step_and_watch(tokens, state, mask)
        return *self.memory.step(tokens, state, token_mask=mask), {}

    def forward(
        self,
        inputs: RecallInput | PerceivedInput,
        state: Any = None,
        reset: Tensor | None = None,
        active: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Any]:
        """T steps -> the memory's output tokens y [B, T, R, D] and the state; options as in RecurrentModel."""
        tokens, mask = self.tokens(inputs)
        return self.memory(tokens, state, reset, active, mask, **options)

    def ask(self, y: Tensor, questions: Tensor) -> Tensor:
        """Output tokens [B, ..., R, D], questions about each step int64 [B, ..., Q] -> logits of the answers [B, ..., Q, C]."""
        return self.answer(y, questions)

    def every_fact(self, y: Tensor) -> Tensor:
        """Output tokens [..., R, D] -> logits [..., facts, C]."""
        assert self.fact is not None
        return self.fact(y.flatten(-2)).unflatten(-1, (self.facts, self.answers))

    def for_streaming(self) -> "RecallModel":
        """A copy in evaluation mode, without the head that only training needs."""
        lean = RecallModel(**(self.config | {"facts": 0}))
        lean.load_state_dict({k: v for k, v in self.state_dict().items() if not k.startswith("fact.")})
        return lean.eval()
