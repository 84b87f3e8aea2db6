"""What `tokenturing stream` has to say: lines for people, and JSON for programs."""

import json
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenturing.tasks.contract import Answer, Event

WIDTH = 80
"""columns of what is said in sentences"""


class Output:
    """Lines for people and, if there is a file, JSON lines for programs.

    Args:
        file: for the JSON lines. Where it is standard output, people read on standard error.
        all_answers: whether the summary has a line for each question whose answer is "nothing yet".
    """

    def __init__(self, file: IO[str] | None, all_answers: bool = False):
        self.file, self.all_answers, self.noticed = file, all_answers, 0
        self._for_people = sys.stderr if file is sys.stdout else sys.stdout

    def say(self, line: str) -> None:
        """A line for people."""
        print(line, file=self._for_people, flush=True)

    def event(self, time: float, event: "Event") -> None:
        """Something was noticed."""
        self.noticed += 1
        self.say(f"{clock(time)}  ({event.sense} {event.what})")
        self._write({"time": round(time, 2), "event": event.sense, "what": event.what, "confidence": round(event.confidence, 4)})

    def answers(self, time: float, answers: Sequence["Answer"]) -> None:
        """Questions were answered."""
        for answer in answers:
            self.say(f"{clock(time)}  {answer.question}? {answer.answer} ({answer.confidence:.0%})")
            self._write_answer(time, answer, final=False)

    def summary(self, time: float, answers: Sequence["Answer"]) -> None:
        """Every question was answered at the end: all go to the file, and to people those with something to say."""
        from tokenturing.tasks.contract import NOTHING_YET

        for answer in answers:
            self._write_answer(time, answer, final=True)
        empty = [answer.question for answer in answers if answer.answer == NOTHING_YET]
        for answer in answers:
            if self.all_answers or answer.answer != NOTHING_YET:
                self.say(f"{clock(time)}  {answer.question}? {answer.answer} ({answer.confidence:.0%})")
        if len(empty) == len(answers) and not self.noticed:
            hint = "" if self.all_answers else " (--all prints them)"
            self.say(f'nothing was recognised: all {len(answers)} answers are "{NOTHING_YET}"{hint}')
        elif empty and not self.all_answers:
            self.say(in_one_line(f"{NOTHING_YET}: ", empty))

    def _write_answer(self, time: float, answer: "Answer", final: bool) -> None:
        self._write(
            {
                "time": round(time, 2),
                "question": answer.question,
                "answer": answer.answer,
                "confidence": round(answer.confidence, 4),
                "final": final,
            }
        )

    def _write(self, line: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()


def in_one_line(head: str, questions: Sequence[str]) -> str:
    """As many questions as fit into WIDTH, and how many more there are."""
    for shown in range(len(questions), 0, -1):
        more = len(questions) - shown
        tail = f" ... ({more} more question{'s' * (more > 1)}; --all prints them)" if more else ""
        line = head + ", ".join(questions[:shown]) + tail
        if len(line) <= WIDTH:
            return line
    return f"{head}{len(questions)} question{'s' * (len(questions) > 1)} (--all prints them)"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:05.2f}" if hours else f"{minutes}:{rest:05.2f}"
