"""Eyes and ears: what is to be seen and heard at one step."""

import torch
from torch import Tensor, nn

from tokenturing.checkpoint.hub import HubMixin
from tokenturing.encoders.features import FeatureEncoder
from tokenturing.encoders.frames import FrameEncoder

SOUND_FEATURES = 96
FRAME_TOKENS = 2
NOTHING = 10
"""the perception's class for no digit"""
SURE_OF_SIGHT, SURE_OF_SOUND = 0.9, 0.5
"""how sure the perception is to be that there is a digit at all; at 0.5 it sees some in clutter"""


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
