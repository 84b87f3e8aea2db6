"""Which voices speak, in training, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenturing.errors import OptionError
from tokenturing.tasks.contract import Report
from tokenturing.tasks.recall.voices.bank import SpeechBank, cached_bank
from tokenturing.tasks.recall.voices.utterances import recorded, speakers


@dataclass(frozen=True)
class SpeechOptions:
    """Voices of a training run."""

    folder: str = ""
    """recordings {digit}_{speaker}_{index}.wav to train on besides the synthesised voices"""
    leave_out: tuple[str, ...] = ()
    """speakers of the folder that are not trained on"""
    bank: str = ""
    """a file that `SpeechBank.save` wrote, in place of all synthesised voices"""


def training_banks(options: SpeechOptions, report: Report | None = None) -> tuple[list[SpeechBank], tuple[str, ...]]:
    """The voices to train on, synthesised and human, and the names of the human speakers."""
    own = SpeechBank.load(options.bank) if options.bank else cached_bank("train", report=report)
    if not options.folder:
        return [own], ()
    names = speakers(recorded(options.folder))
    kept = tuple(name for name in names if name not in options.leave_out)
    return [own, cached_bank("train", options.folder, kept, report=report)], kept


def validation_bank(options: SpeechOptions, report: Report | None = None) -> SpeechBank:
    """Voices that are not trained on, nor tested on."""
    return SpeechBank.load(options.bank) if options.bank else cached_bank("validation", report=report)


def held_out_bank(folder: str, bank: str, notes: Sequence[Mapping[str, Any]], report: Report | None = None) -> SpeechBank:
    """Voices to test models with these notes on: those of a file, of a folder's unheard speakers, or synthesised test voices.

    Raises:
        OptionError: all of the folder's speakers were trained on.
    """
    if bank:
        return SpeechBank.load(bank)
    if not folder:
        return cached_bank("test", report=report)
    present = speakers(recorded(folder))
    known = {name for each in notes for name in each.get("human_speakers", ())}
    unknown = [name for name in present if name not in known]
    if not unknown:
        raise OptionError(
            f"every speaker of {folder} was trained on ({', '.join(present)}): "
            "expected a folder with a speaker that is new to the checkpoint"
        )
    if report:
        report(f"speakers that no model was trained on: {', '.join(unknown)}", 1, 1)
    return cached_bank("test", folder, unknown, report=report)
