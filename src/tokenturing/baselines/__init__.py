"""Other memories with the very same contract, each as good as we know how to make it."""

from tokenturing.baselines.full_transformer import FullTransformer
from tokenturing.baselines.gru import GRU
from tokenturing.baselines.lstm import LSTM
from tokenturing.baselines.memoryless import Memoryless
from tokenturing.baselines.min_gru import MinGRU
from tokenturing.baselines.recurrent_transformer import RecurrentTransformer
from tokenturing.baselines.retrieval import Retrieval
from tokenturing.baselines.temporal_mixer import TemporalMixer
from tokenturing.baselines.window_transformer import WindowTransformer

__all__ = [
    "GRU",
    "LSTM",
    "FullTransformer",
    "Memoryless",
    "MinGRU",
    "RecurrentTransformer",
    "Retrieval",
    "TemporalMixer",
    "WindowTransformer",
]
