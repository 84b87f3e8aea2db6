"""Is your recurrent module fit for streams? `check_streaming` finds what leaks, and says where.

    from tokenturing.testing import check_streaming

    print(check_streaming(model, torch.randn(3, 12, 4, 64)))

The module needs `model(x, state)` with x [B, T, ...] -> (y [B, T, ...], state), `model.initial_state(B)` and,
if it has them, `model.step(x, state)` and the flags `reset` and `active`, bool [B, T]. What it lacks is
skipped and listed. A state is a tensor, or tuples, lists or dicts of tensors, with the row as the first axis
of each.
"""

from tokenturing.testing.laws import LAWS
from tokenturing.testing.streaming import Failure, StreamingError, StreamingReport, check_streaming

__all__ = ["LAWS", "Failure", "StreamingError", "StreamingReport", "check_streaming"]
