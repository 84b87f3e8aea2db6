"""A pretrained speech embedding, streamed: one vector of 96 numbers for every step (80 ms) of sound.

The networks are Google's speech embedding as shipped with openWakeWord (two TensorFlow Lite models inside the package
`pyopen-wakeword`): samples -> 32 log-mel bands every 10 ms -> one embedding of the last 76 mel frames (775 ms) every 80 ms.
`SpeechEmbedding` holds only weights; what a stream has heard is a `SoundState`, passed in and handed back.

The package's own streaming class gives the same vectors 90 ms later, which is how much sound its buffers hold back.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tokenturing.errors import MissingExtraError, OptionError, ShapeError
from tokenturing.media.clock import SAMPLE_RATE, STEP_SAMPLES, STEP_SECONDS

EMBEDDING_WIDTH = 96
MEL_BANDS = 32
WINDOW_FRAMES = 76
"""mel frames that one embedding sees"""
FRAMES_PER_STEP = 8
SHARED_FRAMES = WINDOW_FRAMES - FRAMES_PER_STEP
"""mel frames that two consecutive windows share"""
OVERLAP_SAMPLES = 480
"""samples before a step's own that the mel model needs to give exactly 8 frames"""
BLOCK_STEPS = 64
"""steps per call of a network when a whole waveform is embedded"""


class SoundState(NamedTuple):
    """What a stream has heard, as far as the next embedding needs it."""

    overlap: np.ndarray
    """int16 [480], the last 30 ms of sound"""
    frames: np.ndarray
    """float32 [68, 32], the mel frames that the next window shares with the last one"""


class SpeechEmbedding:
    """A pretrained speech embedding; one instance serves any number of streams, from any thread.

    >>> embedding = SpeechEmbedding()
    >>> state = embedding.initial_state()
    >>> vector, state = embedding.step(samples, state)  # 1280 samples -> [96]
    """

    def __init__(self) -> None:
        package = _wakeword_package()
        self._lock = threading.Lock()  # an interpreter has one pair of input and output buffers
        models = Path(str(package.__file__)).parent / "models"
        library = _library(package)
        self._mel = _Network(library, models / "melspectrogram.tflite")
        # XNNPACK takes less than half the time; a lack of its symbols in another build of the library would be no reason to fail
        fast = hasattr(library, "TfLiteXNNPackDelegateCreate")
        self._one_window = _Network(library, models / "embedding_model.tflite", fast=fast)
        self._many_windows = _Network(library, models / "embedding_model.tflite")
        silence = np.zeros(OVERLAP_SAMPLES, np.int16)
        frame = self._mel_frames(np.zeros(OVERLAP_SAMPLES + STEP_SAMPLES, np.int16))[:1]
        self._silence = SoundState(silence, np.repeat(frame, SHARED_FRAMES, axis=0))

    def initial_state(self) -> SoundState:
        """The state after a long digital silence."""
        return SoundState(*(array.copy() for array in self._silence))

    def step(self, samples: np.ndarray, state: SoundState) -> tuple[np.ndarray, SoundState]:
        """80 ms of sound (float [1280] in -1..1, 16 kHz) -> (embedding float32 [96], next state)."""
        if np.shape(samples) != (STEP_SAMPLES,):
            raise ShapeError(
                f"samples have the shape {list(np.shape(samples))}: expected the {STEP_SAMPLES} samples of one step "
                f"({1000 * STEP_SECONDS:g} ms at {SAMPLE_RATE} Hz, mono); use `advance` or `embed` for longer waveforms"
            )
        vectors, state = self.advance(samples, state)
        return vectors[0], state

    def advance(self, waveform: np.ndarray, state: SoundState) -> tuple[np.ndarray, SoundState]:
        """All whole steps of a waveform, in few calls: float [S] -> (float32 [S // 1280, 96], next state).

        Equal to a loop over `step` up to float32 rounding, and about 5 times faster per step: the network is convolutional in
        time, so overlapping windows share their work. Samples after the last whole step are dropped.
        """
        sound = _to_int16(waveform)
        _check_state(state)
        blocks = []
        for start in range(0, len(sound) - STEP_SAMPLES + 1, BLOCK_STEPS * STEP_SAMPLES):
            block = sound[start : start + BLOCK_STEPS * STEP_SAMPLES]
            frames, state = self._advance_frames(block, state)
            blocks.append(self._embed_frames(frames))
        return np.concatenate(blocks) if blocks else np.zeros((0, EMBEDDING_WIDTH), np.float32), state

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """A whole waveform (float [S] in -1..1, 16 kHz) from the initial state -> float32 [S // 1280, 96]."""
        return self.advance(waveform, self.initial_state())[0]

    def state_after(self, waveform: np.ndarray) -> SoundState:
        """The state after a waveform from the initial state, without the cost of its embeddings."""
        sound = _to_int16(waveform)
        state = self.initial_state()
        for start in range(0, len(sound) - STEP_SAMPLES + 1, BLOCK_STEPS * STEP_SAMPLES):
            _, state = self._advance_frames(sound[start : start + BLOCK_STEPS * STEP_SAMPLES], state)
        return state

    def _advance_frames(self, sound: np.ndarray, state: SoundState) -> tuple[np.ndarray, SoundState]:
        """int16 [S] -> (mel frames [68 + 8 S // 1280, 32] of all the steps' windows, next state)."""
        sound = sound[: len(sound) // STEP_SAMPLES * STEP_SAMPLES]
        sound = np.concatenate([state.overlap, sound])
        frames = np.concatenate([state.frames, self._mel_frames(sound)])
        return frames, SoundState(sound[-OVERLAP_SAMPLES:].copy(), frames[-SHARED_FRAMES:].copy())

    def _mel_frames(self, sound: np.ndarray) -> np.ndarray:
        """int16 [480 + 1280 n] -> float32 [8 n, 32]; the embedding was trained on mel / 10 + 2.

        Step by step, although one call could take them all: the model clips to 80 dB below the loudest part of *its input*,
        so a longer input would give different frames.
        """
        values = sound.astype(np.float32)
        width = OVERLAP_SAMPLES + STEP_SAMPLES
        starts = range(0, len(sound) - OVERLAP_SAMPLES, STEP_SAMPLES)
        with self._lock:
            mel = [self._mel.run(values[None, start : start + width]) for start in starts]
        return np.concatenate(mel).reshape(-1, MEL_BANDS) / 10 + 2

    def _embed_frames(self, frames: np.ndarray) -> np.ndarray:
        """float32 [68 + 8 n, 32] -> float32 [n, 96], one for each window of 76 frames at a stride of 8."""
        network = self._one_window if len(frames) == WINDOW_FRAMES else self._many_windows
        with self._lock:
            return network.run(frames[None, :, :, None]).reshape(-1, EMBEDDING_WIDTH)


@cache
def shared_embedding() -> SpeechEmbedding:
    """The one of this process, for all streams that are heard side by side."""
    return SpeechEmbedding()


class _Network:
    """One TensorFlow Lite model in one interpreter on one thread, resized to the shape of each input.

    Args:
        library: TensorFlow Lite.
        path: of the model.
        fast: with the kernels of XNNPACK, for a model that always gets the same shape.
    """

    def __init__(self, library: ctypes.CDLL, path: Path, *, fast: bool = False) -> None:
        self._library = library
        self._model = library.TfLiteModelCreateFromFile(os.fsencode(path))
        options = library.TfLiteInterpreterOptionsCreate()
        library.TfLiteInterpreterOptionsSetNumThreads(options, 1)
        self._delegate = None
        if fast:
            with _no_log():
                self._delegate = library.TfLiteXNNPackDelegateCreate(None)
            library.TfLiteInterpreterOptionsAddDelegate(options, self._delegate)
        self._interpreter = library.TfLiteInterpreterCreate(self._model, options)
        library.TfLiteInterpreterOptionsDelete(options)
        if not self._model or not self._interpreter:
            raise RuntimeError(f"could not load {path.name}: reinstall pyopen-wakeword==1.1.0")
        self._shape: tuple[int, ...] = ()

    def run(self, values: np.ndarray) -> np.ndarray:
        """float32 array -> the network's output, float32, with the output's shape."""
        library, interpreter = self._library, self._interpreter
        values = np.ascontiguousarray(values, np.float32)
        if values.shape != self._shape:
            self._resize(values.shape)
        entry = library.TfLiteInterpreterGetInputTensor(interpreter, 0)
        _check(library.TfLiteTensorCopyFromBuffer(entry, values.ctypes.data, values.nbytes))
        _check(library.TfLiteInterpreterInvoke(interpreter))
        result = library.TfLiteInterpreterGetOutputTensor(interpreter, 0)
        dimensions = range(library.TfLiteTensorNumDims(result))
        output = np.empty([library.TfLiteTensorDim(result, axis) for axis in dimensions], np.float32)
        _check(library.TfLiteTensorCopyToBuffer(result, output.ctypes.data, output.nbytes))
        return output

    def _resize(self, shape: tuple[int, ...]) -> None:
        sizes = (ctypes.c_int32 * len(shape))(*shape)
        self._shape = ()  # a refused shape leaves the interpreter unusable until it is resized again
        _check(self._library.TfLiteInterpreterResizeInputTensor(self._interpreter, 0, sizes, len(shape)))
        _check(self._library.TfLiteInterpreterAllocateTensors(self._interpreter))
        self._shape = shape

    def __del__(self) -> None:
        if getattr(self, "_interpreter", None):
            self._library.TfLiteInterpreterDelete(self._interpreter)
        if getattr(self, "_delegate", None):
            self._library.TfLiteXNNPackDelegateDelete(self._delegate)
        if getattr(self, "_model", None):
            self._library.TfLiteModelDelete(self._model)


def _wakeword_package() -> ModuleType:
    try:
        import pyopen_wakeword.openwakeword
    except ImportError as error:
        raise MissingExtraError("pyopen-wakeword", "speech") from error
    return pyopen_wakeword.openwakeword


def _library(package: Any) -> ctypes.CDLL:
    """The package's TensorFlow Lite with the package's own declarations of functions, and the few it lacks."""
    library = package.TfLiteWakeWord(package._find_tensorflowlite_c()).lib
    library.TfLiteInterpreterOptionsCreate.argtypes = []
    library.TfLiteInterpreterOptionsCreate.restype = ctypes.c_void_p
    library.TfLiteInterpreterOptionsSetNumThreads.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.TfLiteInterpreterOptionsSetNumThreads.restype = None
    library.TfLiteInterpreterOptionsDelete.argtypes = [ctypes.c_void_p]
    library.TfLiteInterpreterOptionsDelete.restype = None
    if hasattr(library, "TfLiteXNNPackDelegateCreate"):
        library.TfLiteXNNPackDelegateCreate.argtypes = [ctypes.c_void_p]
        library.TfLiteXNNPackDelegateCreate.restype = ctypes.c_void_p
        library.TfLiteXNNPackDelegateDelete.argtypes = [ctypes.c_void_p]
        library.TfLiteXNNPackDelegateDelete.restype = None
        library.TfLiteInterpreterOptionsAddDelegate.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.TfLiteInterpreterOptionsAddDelegate.restype = None
    return library


@contextmanager
def _no_log() -> Iterator[None]:
    """Without what a library in C writes to stderr; XNNPACK says that it is there, whoever wants to know or not."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"TensorFlow Lite failed with status {status}")


def _check_state(state: SoundState) -> None:
    """Networks take most other shapes without complaint and give wrong vectors."""
    shapes = np.shape(state.overlap), np.shape(state.frames)
    if shapes != ((OVERLAP_SAMPLES,), (SHARED_FRAMES, MEL_BANDS)):
        raise ShapeError(
            f"the state has the shapes {', '.join(str(list(shape)) for shape in shapes)}: expected [{OVERLAP_SAMPLES}] and "
            f"[{SHARED_FRAMES}, {MEL_BANDS}], as `initial_state` and each step return them for one stream"
        )


def _to_int16(waveform: np.ndarray) -> np.ndarray:
    """float [S] in -1..1 -> int16 [S], which the networks were trained on; digital silence is exactly 0."""
    waveform = np.asarray(waveform)
    if waveform.ndim != 1 or not np.issubdtype(waveform.dtype, np.floating):
        raise ShapeError(
            f"the sound is {waveform.dtype} {list(waveform.shape)}: expected a float array [samples] in -1..1, "
            f"{SAMPLE_RATE} Hz mono (16-bit samples: divide by 32768; stereo: take the mean over channels)"
        )
    if not np.isfinite(waveform).all():
        raise OptionError(
            "the sound has NaN or infinite samples: expected finite ones; replace them (by 0, say) before embedding"
        )
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
