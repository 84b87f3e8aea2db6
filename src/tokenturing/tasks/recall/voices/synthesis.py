"""Spoken words from a speech synthesiser: espeak-ng, as shipped in the package `espeakng-loader`.

A voice is an accent and a variant, such as "en-us+f2": the accent sets the pronunciation, the variant the timbre. The splits
"train", "validation" and "test" share no variant, so a test voice has never been heard in training.
"""

import _ctypes
import ctypes
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tokenturing.errors import MissingExtraError, OptionError, choose
from tokenturing.media.clock import SAMPLE_RATE
from tokenturing.tasks.recall.voices.resample import resample

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATES = (80, 450)
"""words a minute that espeak can speak"""
PITCHES = (0, 99)
ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
"""espeak calls British English just "en" """

# Left out: robots, whispers, echoes, monsters, and variants that nearly copy one of another split.
VARIANTS = MappingProxyType(
    {
        "train": (
            *("m1", "m2", "m3", "m7", "f1", "f2", "f5", "Alex", "Andy", "Annie", "Diogo", "Gene", "Mario", "Michael", "Mike"),
            *("adam", "anika", "antonio", "belinda", "boris", "edward", "grandma", "linda", "max", "pedro", "robert"),
            *("shelby", "steph", "victor", "klatt", "klatt4", "paul"),
        ),
        "validation": ("m4", "m8", "f3", "Denis", "Nguyen", "benjamin", "quincy", "aunty"),
        "test": ("m5", "m6", "f4", "Andrea", "Reed", "david", "grandpa", "ed", "gustave"),
    }
)


def voices(split: str) -> tuple[str, ...]:
    """The voices of "train" (each variant in two accents), "validation" or "test" (each variant in one)."""
    choose("split", split, VARIANTS)
    return tuple(
        f"{ACCENTS[(index + shift) % len(ACCENTS)]}+{variant}"
        for shift in ((0, 3) if split == "train" else (0,))
        for index, variant in enumerate(VARIANTS[split])
    )


def digit_word(digit: int) -> str:
    """0..9 -> "zero".."nine"."""
    if digit not in range(10):
        raise OptionError(f"digit={digit!r} is no digit: expected 0..9")
    return DIGIT_WORDS[digit]


def synthesize(text: str, voice: str = "en-us+m3", rate: float = 160, pitch: float = 50) -> np.ndarray:
    """Speak a text: float32 [S] in -1..1, 16 kHz mono, without the silence around it.

    The same arguments always give the same samples.

    Args:
        text: at least one word.
        voice: "accent" or "accent+variant", see ACCENTS and VARIANTS.
        rate: words a minute, 80..450.
        pitch: 0..99.
    """
    _check_arguments(text, voice, rate, pitch)
    sound, sample_rate = _speak(text, voice, round(rate), round(pitch))
    if not sound.any():
        raise OptionError(f"espeak-ng made no sound of text={text!r}: expected at least one word")
    return trim_silence(resample(sound / 32768.0, sample_rate, SAMPLE_RATE).astype(np.float32))


def trim_silence(waveform: np.ndarray, threshold: float = 0.01) -> np.ndarray:
    """float [S] without what comes before the first and after the last sample louder than `threshold` times the peak.

    15 ms are kept on both sides, because words begin and end more softly than any threshold.
    """
    magnitude = np.abs(waveform)
    loud = np.flatnonzero(magnitude > threshold * magnitude.max(initial=0.0))
    if not len(loud):
        return waveform[:0]
    margin = SAMPLE_RATE * 15 // 1000
    return waveform[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


def _check_arguments(text: str, voice: str, rate: float, pitch: float) -> None:
    accent, _, variant = voice.partition("+")
    known = {name for names in VARIANTS.values() for name in names}
    if accent not in ACCENTS or (variant and variant not in known):  # espeak would silently speak in another voice
        raise OptionError(
            f"unknown voice {voice!r}: expected an accent ({', '.join(ACCENTS)}) "
            f"or accent+variant, with a variant of {', '.join(sorted(known))}"
        )
    if not text.strip():
        raise OptionError(f"text={text!r} has nothing to speak: expected at least one word")
    if not RATES[0] <= rate <= RATES[1]:
        raise OptionError(f"rate={rate} is out of range: expected {RATES[0]}..{RATES[1]} words a minute")
    if not PITCHES[0] <= pitch <= PITCHES[1]:
        raise OptionError(f"pitch={pitch} is out of range: expected {PITCHES[0]}..{PITCHES[1]}")


LONGEST_PATH = 120
"""bytes of the path to espeak's data; it has room for 160, with the names of its files"""
_RATE, _PITCH = 1, 3  # espeak_PARAMETER
_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()


def _speak(text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int]:
    """-> (int16 [S], its sample rate)."""
    pieces: list[np.ndarray] = []

    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = _Callback(receive)
    encoded = text.encode() + b"\0"
    with _lock, _fresh_library() as (library, sample_rate):
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {voice!r}: reinstall espeakng-loader")
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        if library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _UTF8, None, None) != 0:
            raise RuntimeError(f"espeak-ng could not speak {text!r}")
        library.espeak_Synchronize()
    return np.concatenate([np.zeros(0, np.int16), *pieces]), sample_rate


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, int]]:
    """espeak-ng and its sample rate, loaded for one call and unloaded again (5 ms).

    Its noise and flutter carry over from call to call in static variables that only a reload resets: without it a word's
    samples would depend on what was spoken before.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtraError("espeakng-loader", "speech") from error
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    with _short_path(Path(espeakng_loader.get_data_path())) as data:
        sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DO_NOT_EXIT)
        if sample_rate <= 0:
            raise RuntimeError(f"espeak-ng does not find its data in {data}: reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        try:
            yield library, sample_rate
        finally:
            library.espeak_Terminate()
            unload = getattr(_ctypes, "FreeLibrary" if sys.platform == "win32" else "dlclose")
            unload(library._handle)


@contextmanager
def _short_path(data: Path) -> Iterator[Path]:
    """The folder itself, or where its path is too long for espeak, which cuts it off, a link or a copy with a short one.

    Raises:
        OptionError: the folder for temporary files has too long a path as well.
    """
    if len(os.fsencode(data)) <= LONGEST_PATH:
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        short = Path(folder) / data.name
        if len(os.fsencode(short)) > LONGEST_PATH:
            raise OptionError(
                f"espeak-ng cannot read its data behind a path as long as {data}, nor {folder}: set TMPDIR to a folder with a "
                f"path of less than {LONGEST_PATH - 40} bytes"
            )
        try:
            short.symlink_to(data, target_is_directory=True)
        except OSError:  # Windows allows links to few
            shutil.copytree(data, short)
        yield short
