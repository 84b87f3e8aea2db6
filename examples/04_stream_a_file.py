"""Stream a video with sound through a trained model, step by step, and ask what it remembers.

Without a file, a clip of a minute is made: digits of test images that drift by, words of voices never heard before.
Run: python examples/04_stream_a_file.py [FILE.mp4] [--seconds 60]
"""

import argparse
import tempfile
from pathlib import Path

import torch

import tokenturing as tt
from tokenturing.encoders.sound import SpeechEmbedding
from tokenturing.media.steps import MediaStep, open_media
from tokenturing.media.writer import write_video
from tokenturing.tasks.recall.eyes.perception import SOUND_FEATURES
from tokenturing.tasks.recall.minute import make_minute
from tokenturing.tasks.recall.model import RecallInput
from tokenturing.tasks.recall.world.questions import ANSWERS, QUESTIONS

ASKED = [QUESTIONS.index(text) for text in ("seen 1 last", "heard 1 last", "how long ago seen")]
ears = SpeechEmbedding()


def as_input(step: MediaStep, sound_state: tuple) -> tuple[RecallInput, tuple]:
    """80 ms of media as the model takes it; what is absent is marked so."""
    frame, sound = torch.zeros(1, 32, 32), torch.zeros(1, SOUND_FEATURES)
    if step.frame is not None:
        frame = torch.from_numpy(step.frame).unsqueeze(0)
    if step.sound is not None:
        vector, sound_state = ears.step(step.sound, sound_state)
        sound = torch.from_numpy(vector).unsqueeze(0)
    present = (torch.tensor([step.frame is not None]), torch.tensor([step.sound is not None]))
    return RecallInput(frame, sound, torch.tensor([-1]), *present), sound_state


parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?")
parser.add_argument("--seconds", type=float, default=60)
given = parser.parse_args()

with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    if given.file is None:
        minute = make_minute(steps=int(given.seconds * 12.5))
        given.file = str(Path(folder) / "clip.mp4")
        write_video(Path(given.file), minute.frames, minute.waveform)
    model = tt.load("recall-ttm")
    state, sound_state = model.initial_state(1), ears.initial_state()
    with open_media(given.file) as media:
        for number, step in enumerate(media):
            inputs, sound_state = as_input(step, sound_state)
            if number % 60 == 59:  # ask a fork of the session, so that asking leaves no trace
                for question in ASKED:
                    logits, _ = model.step(inputs._replace(question=torch.tensor([question])), state)
                    print(f"{step.time:6.2f} s  {QUESTIONS[question]}? {ANSWERS[int(logits.argmax())]}")
            _, state = model.step(inputs, state)
    print(f"the state is {tt.state.nbytes(state)} bytes, however long the file is")
