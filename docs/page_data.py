"""Makes what the page of the recall task shows and says: sounds/*.wav and samples.js.

Run once from the repository's root, `python docs/page_data.py`; it takes the extras `speech` and `tasks`. The voice and the
images are of the test split: no model was trained on them.
"""

import wave
from pathlib import Path

import numpy as np

from tokenturing.media.clock import SAMPLE_RATE
from tokenturing.tasks.digits import digit_images
from tokenturing.tasks.recall.voices.synthesis import digit_word, synthesize

PAGE = Path("src/tokenturing/tasks/recall/page")
VOICE, RATE, PITCH = "en-us+m5", 150, 50
PEAK = 0.4
SAMPLES = 3
"""handwritten images of each digit"""
HEAD = """// Handwritten digits of 8 x 8 pixels from 0 to 16, a letter each ("a" is 0): made by docs/page_data.py from the
// test split of scikit-learn's digits (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0).
"""


def main() -> None:
    (PAGE / "sounds").mkdir(parents=True, exist_ok=True)
    for digit in range(10):
        word = synthesize(digit_word(digit), VOICE, RATE, PITCH)
        with wave.open(str(PAGE / "sounds" / f"{digit}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((word * (PEAK / np.abs(word).max()) * 32767).astype("<i2").tobytes())
    images, labels = digit_images("test")
    rows = []
    for digit in range(10):
        pixels = np.rint(images[labels == digit][:SAMPLES] * 16).astype(int).reshape(SAMPLES, -1)
        texts = ", ".join(f'"{"".join(chr(97 + pixel) for pixel in image)}"' for image in pixels)
        rows.append(f"  [{texts}],\n")
    (PAGE / "samples.js").write_text(f"{HEAD}export const SAMPLES = [\n{''.join(rows)}];\n", encoding="utf-8")


if __name__ == "__main__":
    main()
