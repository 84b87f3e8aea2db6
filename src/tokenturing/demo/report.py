"""The page that the demo leaves behind: `report.html`, one file that opens offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenturing.demo.contest import GUESS, by_group, guess, score
from tokenturing.demo.figures import AGO, Compared, by_delay, by_length
from tokenturing.demo.learning import Learned
from tokenturing.evaluate.figures import Figure
from tokenturing.evaluate.trace import holdings
from tokenturing.files import write_file
from tokenturing.media.clock import STEP_SECONDS
from tokenturing.memory.write import WRITTEN
from tokenturing.tasks.last_digits.model import DEPTH
from tokenturing.tasks.recall.minute import FADING, Minute
from tokenturing.tasks.recall.watching import Asked, Watched
from tokenturing.tasks.recall.world.questions import AGO_BORDERS, ANSWERS, KINDS, ago_class
from tokenturing.viz.curves import delay_figure, growth_figure, learning_figure, long_figure, readable
from tokenturing.viz.memory import Happening, Question, full_ink, memory_figure, stream_figure
from tokenturing.viz.page import Bar, Section, bars, both, page, table
from tokenturing.viz.style import IDLE, model_style

ORDINALS = ("last", "second last", "third last", "fourth last")
AJAR = 0.05
"""gates above 0 and below this are called ajar"""
NEAR = 0.3
"""a delay is near a border if it differs from it by less than this share"""


def write_report(
    path: Path,
    minute: Minute,
    watched: Watched,
    others: Mapping[str, Sequence[Asked]],
    learned: Learned,
    compared: Sequence[Compared],
) -> None:
    """Put everything on one page; `others` has the answers of models that watched the same minute, by their names."""
    sections = [
        _stream(minute, watched),
        _contest(watched, others, compared),
        _memory(minute, watched),
        _learning(learned),
        *_accuracy(compared),
        *_growth(compared),
        *_long(compared),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page("What a Token Turing Machine remembers", _lead(watched, compared), sections)
    write_file(path, text.encode())


def _lead(watched: Watched, compared: Sequence[Compared]) -> str:
    """Three sentences for someone who has never heard of it."""
    slots = watched.gates.shape[1]
    last = "Its notebook never grows, so that a step costs the same after ten minutes as after one second"
    growing = [model for model in compared if model.grows]
    if growing:
        most = max(growing, key=lambda model: model.sizes[-1].nbytes)
        ratio = most.sizes[-1].nbytes / compared[0].sizes[-1].nbytes
        last += f", while a model that keeps everything ({most.name}) needs {ratio:,.0f} times the room by then"
    return (
        "A Token Turing Machine is a neural network that looks and listens without end and keeps what "
        f"matters in a notebook of only {slots} lines, its memory. Below it watches one minute in which "
        "handwritten digits appear and digits are spoken, pictures and voices it was never trained on, and "
        f"answers questions such as “which digit did you see second last?”: {score(watched.asked)} right. {last}."
    )


def happenings(minute: Minute) -> list[Happening]:
    """The events of the minute with a picture from the middle of each sighting."""
    found = []
    for event in minute.events:
        seen = event.kind == "seen"
        step = (event.first + event.last - FADING) // 2 if seen else event.first
        found.append(Happening(event.kind, event.label, step * STEP_SECONDS, minute.frames[step] if seen else None))
    return found


def _stream(minute: Minute, watched: Watched) -> Section:
    questions = [Question(asked.step * STEP_SECONDS, asked.right) for asked in watched.asked]
    wrong = [asked for asked in watched.asked if not asked.right]
    rows = [(f"{asked.step * STEP_SECONDS:.1f}\u00a0s", asked.question, asked.answer, asked.truth) for asked in wrong]
    listed = table(("when", "question", "its answer", "the truth"), rows) if rows else ""
    return Section(
        "The minute it watched",
        'Digits that were <span class="seen">seen</span>, with a picture of 32 × 32 pixels as the machine sees '
        'them, and digits that were <span class="heard">heard</span>; beneath, each question: '
        '<span class="right">● right</span>, <span class="wrong">✖ wrong</span>. In the middle nothing happens '
        "but noise, and the questions go on.",
        both(stream_figure, happenings(minute), questions, len(minute.frames) * STEP_SECONDS, name="stream")
        + (f"<details><summary>What it got wrong</summary>{listed}</details>" if listed else ""),
    )


def _contest(watched: Watched, others: Mapping[str, Sequence[Asked]], compared: Sequence[Compared]) -> Section:
    names = [model.name for model in compared]
    answered = {names[0]: watched.asked, **others}
    colors = {name: model_style(names.index(name) if name in names else len(names))["color"] for name in answered}
    scores = {name: score(asked) for name, asked in answered.items()} | {GUESS: guess(watched.asked)}
    drawn = [Bar(name, one.share, f"{one} ({one.share:.0%})", colors.get(name, IDLE)) for name, one in scores.items()]
    groups = {name: by_group(asked) for name, asked in answered.items()}
    rows = [
        [title, str(len(asked)), *(str(score(found[title]).right) for found in groups.values()), f"{guess(asked).right:.1f}"]
        for title, asked in by_group(watched.asked).items()
    ]
    watchers = f" The {' and the '.join(others)} watched the same minute and got the same questions." if others else ""
    return Section(
        "The same minute, answered by others",
        f"How many of the minute’s questions were answered right.{watchers}",
        bars(drawn) + table(("question", "asked", *answered, GUESS), rows),
        [
            "A blind guess draws one of the answers that the question can have, each as likely as the others: one of 11 for a "
            "digit (ten digits and “nothing yet”), one of 6 for a length of time. Shown is how many it gets right on average. "
            "One minute is little to judge by: a few questions more or less are chance."
        ],
    )


def _memory(minute: Minute, watched: Watched) -> Section:
    held, gates = holdings(watched.gates, minute.events), watched.gates
    ajar = ((gates > 0) & (gates < AJAR)).mean()
    return Section(
        "Its memory during that minute",
        "Each row is one slot of the memory, coloured by what it holds: a digit that was "
        '<span class="seen">seen</span> or <span class="heard">heard</span>; grey or empty is neither. A slot is written '
        "through a gate; while the gate is shut the slot stays as it is to the bit, however long that lasts.",
        both(memory_figure, held, gates, watched.reads, happenings(minute), STEP_SECONDS, name="memory"),
        [
            "<b>What each slot holds</b>: the digit that was there to be seen or heard when the slot was last written, that is, "
            f"when at least {WRITTEN:.0%} of it were replaced in one step.",
            f"<b>Where it writes</b>: {(gates == 0).mean():.1%} of all gates are exactly 0, shut to the bit, and leave the "
            f"picture empty. Any ink is a gate that is open: faint smears are gates ajar, {ajar:.1%} of all, by less than "
            f"{AJAR:.0%}. To be seen at all they are drawn stronger than they are, by the square root: a gate open by 1% has a "
            "tenth of the full colour.",
            "<b>What it reads</b>: at each step every read token is a weighted mean of all slots and of what comes in; its "
            "weights add up to 100%. Drawn is the largest weight that any read token gives the slot at that step; full colour "
            f"stands for {full_ink(watched.reads):.0%} or more. Reading changes nothing in a slot.",
        ],
    )


def _learning(learned: Learned) -> Section:
    names = [f"the {ORDINALS[k]} digit" for k in range(DEPTH)]
    curves = {name: [shares[k] for shares in learned.shares] for k, name in enumerate(names)}
    return Section(
        "A small one, trained from nothing on this machine",
        f"While you waited, {learned.parameters:,} random numbers became a machine that recalls handwritten "
        f"digits: {learned.updates:,} updates in {learned.seconds[-1]:.0f} seconds, tested on images that it was "
        "not trained on.",
        both(learning_figure, learned.seconds, curves, 0.1, name="learning"),
    )


def _accuracy(compared: Sequence[Compared]) -> list[Section]:
    known = [model for model in compared if model.figures]
    if not known:
        return []
    rows, classes = _accuracy_table(known)
    head = ("question", "delay", "voices", *(model.name for model in known))
    return [
        Section(
            "What is left after a delay",
            "Share of right answers by the time since the last event, on images and voices that no model was "
            "trained on, with 95% intervals. Nothing but noise runs through the delay; the models were trained on "
            "streams of at most 80 seconds. The dotted line is 95%.",
            both(delay_figure, by_delay(known), [model.name for model in compared], [AGO], name="delay")
            + f"<details><summary>All figures</summary>{table(head, rows, classes, cards=True)}</details>",
            [*_ago(known), "These figures came with the models: tokenturing evaluate measures them anew."],
        )
    ]


def _ago(known: Sequence[Compared]) -> list[str]:
    """Why the points of "how long ago" go up and down."""
    delays = sorted({float(figure.where["delay"]) for model in known for figure in model.figures if figure.kind == "ago"})
    if not delays:
        return []
    truths = ", ".join(f"after {readable(delay)} “{ANSWERS[ago_class(round(delay / STEP_SECONDS))]}”" for delay in delays)
    near = [f"{readable(delay)} (border at {border:.0f} s)" for delay in delays for border in AGO_BORDERS if _near(delay, border)]
    close = f" Those near a border are easily taken for their neighbour: {', '.join(near)}." if near else ""
    return [
        f"<b>{AGO.capitalize()}</b>: the answer is one of five lengths of time, and the delay decides which is true: {truths}. "
        "Points at two delays do not measure the same thing twice, so they may go up and down and are not joined." + close
    ]


def _near(delay: float, border: float) -> bool:
    return abs(delay / border - 1) < NEAR


def _accuracy_table(known: Sequence[Compared]) -> tuple[list[list[str]], list[list[str]]]:
    """Cells and their classes: each kind and delay a row, each model a column, the best marked."""
    shares = [{_key(figure): figure for figure in model.figures} for model in known]
    keys = {key for found in shares for key in found}
    rows, classes = [], []
    for voices, kind, delay in sorted(keys, key=lambda key: (key[0], KINDS.index(key[1]), key[2])):
        here = [found.get((voices, kind, delay)) for found in shares]
        best = max(figure.value for figure in here if figure)
        rows.append([kind, readable(delay), voices or "synthesised", *(_share(figure) for figure in here)])
        classes.append(["", "", "", *("best" if figure and figure.value == best else "" for figure in here)])
    return rows, classes


def _key(figure: Figure) -> tuple[str, str, float]:
    return str(figure.where.get("voices", "")), figure.kind, float(figure.where["delay"])


def _share(figure: Figure | None) -> str:
    return f"{figure.value:.2f} ({figure.low:.2f}-{figure.high:.2f})" if figure else "-"


def _growth(compared: Sequence[Compared]) -> list[Section]:
    first, last = (readable(compared[0].sizes[at].steps * STEP_SECONDS) for at in (0, -1))
    head = ["model", "parameters", f"cost at {first}", f"cost at {last}", f"state at {first}", f"state at {last}", "trained in"]
    rows = [
        [
            model.name,
            f"{model.parameters:,}",
            *(f"{model.sizes[at].multiply_adds / 1e6:.2f} M" for at in (0, -1)),
            *(f"{model.sizes[at].nbytes / 1e3:,.1f} kB" for at in (0, -1)),
            f"{model.notes['seconds'] / 60:.0f} min" if "seconds" in model.notes else "-",
        ]
        for model in compared
    ]
    return [
        Section(
            "What it costs",
            "Multiply-adds of one step and bytes of state for one stream, measured after so much of it. Both axes "
            "are logarithmic: a flat line costs the same for ever.",
            both(growth_figure, by_length(compared), name="growth") + table(head, rows, cards=True),
            [
                *_ratio(compared),
                "The memory alone; eyes and ears are the same for all. Those without a time of training come without weights.",
            ],
        )
    ]


def _ratio(compared: Sequence[Compared]) -> list[str]:
    """What the curves say, in words."""
    ours = compared[0]
    last, grown = ours.sizes[-1], [model for model in compared if model.grows]
    if not grown:
        return []
    most = max(grown, key=lambda model: model.sizes[-1].nbytes)
    theirs = most.sizes[-1]
    return [
        f"<b>After {readable(last.steps * STEP_SECONDS)}</b> the cache of the {most.name} is "
        f"{theirs.nbytes / last.nbytes:,.0f} times the state of the {ours.name} ({theirs.nbytes / 1e3:,.0f} kB, against "
        f"{last.nbytes / 1e3:,.1f} kB), and a step of it costs {theirs.multiply_adds / last.multiply_adds:,.1f} times as many "
        "multiply-adds. Its lines go on rising; those that are flat stay so."
    ]


def _long(compared: Sequence[Compared]) -> list[Section]:
    """What the notes of a checkpoint say of a very long stream."""
    found = [(model.name, model.notes["long_stream"]) for model in compared if model.notes.get("long_stream")]
    if not found:
        return []
    name, rows = found[0]
    steps, last = [row["steps"] for row in rows], rows[-1]
    return [
        Section(
            f"{last['steps']:,} steps without a break",
            f"One stream of {last['steps'] * STEP_SECONDS / 3600:.0f} hours at 12.5 steps a second ({name}): the time "
            f"of a step and the memory of the process along the way. At its end the state is {last['state_bytes']:,} bytes.",
            both(long_figure, steps, [row["median_ms"] for row in rows], [row["resident_mib"] for row in rows], name="long"),
            ["Measured by benchmarks/long_stream.py on one core."],
        )
    ]
