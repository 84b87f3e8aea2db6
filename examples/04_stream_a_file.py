"""Stream a video with sound through a trained model, step by step, and ask what it remembers.

Without a file, a clip of a minute is made: digits of test images that drift by, words of voices never heard before.
Run: python examples/04_stream_a_file.py [FILE.mp4] [--seconds 60]
"""

import argparse
import tempfile
from pathlib import Path

import tokenturing as tt
from tokenturing.media.steps import open_media
from tokenturing.media.writer import write_video
from tokenturing.tasks.recall.minute import make_minute
from tokenturing.tasks.recall.task import Recall

ASKED = ("seen 1 last", "heard 1 last", "how long ago seen")

parser = argparse.ArgumentParser()
parser.add_argument("file", nargs="?")
parser.add_argument("--seconds", type=float, default=60)
arguments = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    if arguments.file is None:
        minute = make_minute(steps=int(arguments.seconds * 12.5))
        arguments.file = str(Path(folder) / "clip.mp4")
        write_video(Path(arguments.file), minute.frames, minute.waveform)
    model = tt.load("recall-ttm")
    with open_media(arguments.file) as media:
        session = Recall().session(model, media)
        for number, step in enumerate(media):
            for event in session.take(step):
                print(f"{step.time:6.2f} s  ({event.sense} {event.what})")
            if number % 60 == 59:
                for answer in session.ask(*ASKED):  # asking leaves no trace
                    print(f"{step.time:6.2f} s  {answer.question}? {answer.answer} ({answer.confidence:.0%})")
    print(f"the state is {tt.state.nbytes(model.initial_state(1))} bytes, however long the file is")
