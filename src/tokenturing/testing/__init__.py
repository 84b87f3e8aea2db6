"""Is your recurrent module fit for streams? `check_streaming` finds leaks and says where they are.

    from tokenturing.testing import check_streaming

    print(check_streaming(model, torch.randn(3, 12, 4, 64)))

The module needs `model(x, state)` with x [B, T, ...] -> (y [B, T, ...], state) and `model.initial_state(B)`; optional are
`model.step(x, state)` and the flags `reset` and `active`, bool [B, T]. Where `reset` is true the row starts afresh before the
step; where `active` is false it keeps its state, after the reset if both come, and gives zeros. Laws about what a module lacks
are skipped and listed. A state is a tensor, or tuples, lists, dicts or dataclasses of tensors, each with the row as its first
axis.
"""

from tokenturing.testing.law import LAWS
from tokenturing.testing.streaming import Failure, StreamingError, StreamingReport, check_streaming

__all__ = ["LAWS", "Failure", "StreamingError", "StreamingReport", "check_streaming"]
