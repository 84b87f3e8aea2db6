"""A model for the recall task: eyes and ears, any recurrent model as its memory, and a head that answers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenturing.encoders.features import FeatureEncoder
from tokenturing.encoders.frames import FrameEncoder
from tokenturing.encoders.questions import QuestionEncoder
from tokenturing.errors import OptionError, closest
from tokenturing.hub import HubMixin
from tokenturing.models.answer import AnswerHead
from tokenturing.models.contract import RecurrentModel
from tokenturing.models.machine import TokenTuringMachine

SOUND_FEATURES = 96
FRAME_TOKENS = 2
NOTHING = 10
"""the perception's class for no digit"""
SURE_OF_SIGHT, SURE_OF_SOUND = 0.9, 0.5
"""how sure the perception is to be that there is a digit at all; at 0.5 it sees some in clutter"""
INPUT_TOKENS = FRAME_TOKENS + 2
"""two of the frame, one of the sound, one of the question"""


class RecallInput(NamedTuple):
    """What comes in, [B, T, ...] for many steps or [B, ...] for one."""

    frames: Tensor
    """[B, T, 32, 32] float32 in [0, 1]"""
    sound: Tensor
    """[B, T, 96] speech embedding"""
    question: Tensor
    """int64 [B, T], -1: none"""
    has_frame: Tensor
    """bool [B, T]"""
    has_sound: Tensor
    """bool [B, T]"""


class PerceivedInput(NamedTuple):
    """The same after the perception: tokens in place of frames and sound."""

    tokens: Tensor
    """[B, T, 3, D]"""
    question: Tensor
    has_frame: Tensor
    has_sound: Tensor


class Perception(HubMixin):
    """Frames and sound -> tokens, and what is to be seen and heard at this very step.

    It is trained on single steps and then frozen, the same for every memory that is compared behind it.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.config = {"width": width}
        self.frames = FrameEncoder(width, FRAME_TOKENS)
        self.sound = FeatureEncoder(SOUND_FEATURES, width, dropout=0.2)
        self.seen = nn.Linear(FRAME_TOKENS * width, 11)
        self.heard = nn.Linear(width, 11)

    def forward(self, frames: Tensor, sound: Tensor) -> Tensor:
        """frames [..., 32, 32], sound [..., 96] -> tokens [..., 3, D]"""
        return torch.cat([self.frames(frames), self.sound(sound)], dim=-2)

    def classify(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [..., 3, D] -> logits [..., 11] of the digit seen and of the digit just heard; class 10: none."""
        return self.seen(tokens[..., :FRAME_TOKENS, :].flatten(-2)), self.heard(tokens[..., FRAME_TOKENS, :])

    def salient(self, tokens: Tensor) -> Tensor:
        """The tokens [..., 3, D] with those at zero in which no digit is recognised for sure."""
        seen, heard = (1 - logits.softmax(-1)[..., NOTHING:] for logits in self.classify(tokens))
        seen = seen.expand(*seen.shape[:-1], FRAME_TOKENS)
        recognised = torch.cat([seen > SURE_OF_SIGHT, heard > SURE_OF_SOUND], dim=-1)
        return torch.where(recognised.unsqueeze(-1), tokens, 0.0)


def build_memory(kind: str, options: dict[str, Any]) -> RecurrentModel:
    """The recurrent model of that name."""
    from tokenturing import baselines

    kinds = {"TokenTuringMachine": TokenTuringMachine} | {
        name: getattr(baselines, name) for name in baselines.__all__
    }
    if kind not in kinds:
        raise OptionError(f"memory kind {kind!r} is not known: expected {closest(kind, kinds)}")
    return kinds[kind](**options, input_tokens=INPUT_TOKENS)


class RecallModel(HubMixin):
    """Perception, a memory and a head: frames, sound and questions in, answers out.

    Args:
        memory: class name of the recurrent model ("TokenTuringMachine", "LSTM", ...).
        options: its constructor's arguments.
        questions: how many questions there are.
        answers: C.
        facts: how many facts the training head reads off at every step, each one of the answers; 0: no such head.
        perception: width of the perception's tokens.
    """

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
            "memory": memory, "options": options, "questions": questions, "answers": answers, "facts": facts,
            "perception": perception,
        }  # fmt: skip
        self.perception = Perception(perception)
        self.memory = build_memory(memory, options)
        width = self.memory.width
        self.adapt = nn.Linear(perception, width)
        self.question = QuestionEncoder(questions, width)
        self.facts, self.answers = facts, answers
        self.answer = AnswerHead(width, answers)
        self.fact = nn.Linear(self.memory.output_tokens * width, answers * facts) if facts else None

    def train(self, mode: bool = True) -> "RecallModel":
        """Training mode for all but a frozen perception."""
        super().train(mode)
        self.perception.train(mode and any(p.requires_grad for p in self.perception.parameters()))
        return self

    def initial_state(self, batch_size: int) -> Any:
        """The memory's state before the first step."""
        return self.memory.initial_state(batch_size)

    def perceive(self, inputs: RecallInput) -> PerceivedInput:
        """What the eyes and ears make of the inputs."""
        return PerceivedInput(
            self.perception(inputs.frames, inputs.sound), inputs.question, inputs.has_frame, inputs.has_sound
        )

    def tokens(self, inputs: RecallInput | PerceivedInput) -> tuple[Tensor, Tensor]:
        """Tokens [..., N, D] and their mask bool [..., N]."""
        if isinstance(inputs, RecallInput):
            inputs = self.perceive(inputs)
        perceived = self.adapt(self.perception.salient(inputs.tokens))
        asked, is_asked = self.question(inputs.question)
        seen = inputs.has_frame.unsqueeze(-1).expand(*inputs.has_frame.shape, FRAME_TOKENS)
        mask = torch.cat([seen, inputs.has_sound.unsqueeze(-1), is_asked], dim=-1)
        return torch.cat([perceived, asked], dim=-2), mask

    def step(self, inputs: RecallInput | PerceivedInput, state: Any) -> tuple[Tensor, Any]:
        """One step [B, ...] -> logits of the answer [B, C] and the next state."""
        tokens, mask = self.tokens(inputs)
        y, state = self.memory.step(tokens, state, token_mask=mask)
        return self.read_off(y, inputs.question), state

    def forward(
        self, inputs: RecallInput | PerceivedInput, state: Any = None, reset: Tensor | None = None, active: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """T steps -> logits of the answers [B, T, C] and the state; options as in RecurrentModel.

        Where nothing is asked the logits mean nothing.
        """
        y, state = self.remember(inputs, state, reset, active, **options)
        return self.read_off(y, inputs.question), state

    def remember(
        self, inputs: RecallInput | PerceivedInput, state: Any = None, reset: Tensor | None = None, active: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """T steps -> the memory's output tokens y [B, T, R, D], of which any question can be asked, and the state."""
        tokens, mask = self.tokens(inputs)
        return self.memory(tokens, state, reset, active, mask, **options)

    def read_off(self, y: Tensor, question: Tensor) -> Tensor:
        """Output tokens [..., R, D] and one question each, int64 [...] (-1: none) -> logits [..., C]."""
        return self.answer(y, self.question(question)[0]).squeeze(-2)

    def every_answer(self, y: Tensor) -> Tensor:
        """Output tokens [..., R, D] -> logits [..., questions, C]."""
        table = self.question.table.weight
        return self.answer(y, table.expand(*y.shape[:-2], *table.shape))

    def every_fact(self, y: Tensor) -> Tensor:
        """Output tokens [..., R, D] -> logits [..., facts, C]."""
        assert self.fact is not None
        return self.fact(y.flatten(-2)).unflatten(-1, (self.facts, self.answers))

    def without_facts(self) -> "RecallModel":
        """The same model without the head that only training needs."""
        lean = RecallModel(**(self.config | {"facts": 0}))
        lean.load_state_dict({k: v for k, v in self.state_dict().items() if not k.startswith("fact.")})
        return lean.eval()
