"""Figures are SVG elements for a page: well-formed, without addresses, in the page's own text colour."""

from functools import partial
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from tokenturing.viz import curves, memory, style
from tokenturing.viz.page import Bar, Section, bars, both, page, table

VOID = {"meta", "br", "img", "link", "input", "hr"}


def figures(*, narrow: bool = False) -> dict[str, str]:
    rng = np.random.default_rng(0)
    happenings = [
        memory.Happening("seen", 3, 1.0, rng.random((32, 32))),
        memory.Happening("heard", 7, 2.5),
        memory.Happening("seen", 5, 4.0, None),
        memory.Happening("heard", 2, 21.0),
    ]
    held = rng.integers(-2, 3, (60, 6)).repeat(2, axis=0)
    gates = rng.random((120, 6)) * (rng.random((120, 6)) > 0.8)
    shares = [curves.Share(delay, 0.9, 0.8, 0.95) for delay in (0.5, 60.0)]
    lengths = [curves.Length(seconds, 1e6, 4e3 * seconds) for seconds in (1.0, 60.0)]
    drawings = {
        "stream": partial(memory.stream_figure, happenings, [memory.Question(1.5, True)], 22.0),
        "memory": partial(memory.memory_figure, held, gates, rng.random((120, 6)), happenings, 0.08),
        "learning": partial(curves.learning_figure, [0, 1, 2], {"last": [0.1, 0.5, 0.9]}, 0.1),
        "delay": partial(curves.delay_figure, {"seen": {"a": shares, "b": shares[:1]}}, ["a", "none", "b"], []),
        "apart": partial(curves.delay_figure, {"seen": {"a": shares, "b": shares[:1]}}, ["a", "none", "b"], ["seen"]),
        "long": partial(curves.long_figure, [10, 20], [1.0, 1.1], [200.0, 200.0]),
        "growth": partial(curves.growth_figure, {"a": lengths, "b": lengths}),
    }
    end = "-narrow" if narrow else ""
    return {name + end: draw(name + end, narrow=narrow) for name, draw in drawings.items()}


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return figures() | figures(narrow=True)


def test_each_is_one_svg_element_without_addresses(drawn: dict[str, str]) -> None:
    for name, text in drawn.items():
        root = ElementTree.fromstring(text)
        assert root.tag == "svg"
        assert root.attrib["aria-label"] == name
        assert root.attrib["viewBox"]
        assert "http" not in text


def test_ink_is_the_pages_own(drawn: dict[str, str]) -> None:
    for text in drawn.values():
        assert style.INK not in text
        assert "currentColor" in text


def test_no_two_figures_share_the_ids_they_refer_to(drawn: dict[str, str]) -> None:
    taken: set[str] = set()
    for text in drawn.values():
        parts = {part.split('"')[0] for part in text.split('id="')[1:]}
        used = {part for part in parts if f"#{part}" in text}
        assert not used & taken
        taken |= used


def test_the_same_arrays_give_the_same_figures(drawn: dict[str, str]) -> None:
    assert figures() | figures(narrow=True) == drawn


def test_narrow_figures_keep_their_text_legible(drawn: dict[str, str]) -> None:
    widths = {name: float(ElementTree.fromstring(text).attrib["viewBox"].split()[2]) for name, text in drawn.items()}
    for name, width in widths.items():
        assert (width <= 72 * style.NARROW + 1) == name.endswith("-narrow"), "points, of which a phone shows about 360"


def test_points_apart_are_not_joined(drawn: dict[str, str]) -> None:
    def lines(text: str) -> int:
        return text.count(f"stroke: {style.SERIES[0]}; stroke-width: 2.6")

    assert lines(drawn["delay"]) > lines(drawn["apart"])


def test_no_colour_means_two_things() -> None:
    fixed = {style.SEEN, style.HEARD, style.RIGHT, style.WRONG}
    assert not fixed & set(style.SERIES)
    assert len(set(style.SERIES)) == len(style.SERIES)
    assert fixed & {*style.SERIES, style.SEEN}, "the check sees a colour that is used twice"
    looks = [style.model_style(index) for index in range(2 * len(style.SERIES))]
    assert [look["color"] for look in looks].count(style.SERIES[0]) == 1, "that of the machine is no other model's"


def test_bars_are_as_long_as_they_say() -> None:
    text = bars([Bar("a & b", 0.25, "1 of 4", "#123123"), Bar("c", 1.0, "4 of 4", "#321321")])
    assert "a &amp; b" in text
    assert 'style="width: 25.0%; background: #123123"' in text
    assert 'style="width: 100.0%; background: #321321"' in text


def test_a_figure_is_drawn_for_both_widths() -> None:
    text = both(curves.learning_figure, [0, 1], {"last": [0.1, 0.9]}, 0.1, name="twice")
    assert text.count("<svg") == 2
    assert text.index('class="broad"') < text.index('aria-label="twice"') < text.index('class="narrow"')
    assert text.index('class="narrow"') < text.index('aria-label="twice-narrow"')


def test_nothing_held_and_nothing_asked_can_be_drawn() -> None:
    empty = np.full((20, 3), -1)
    assert memory.memory_figure(empty, np.zeros((20, 3)), np.zeros((20, 3)), [], 0.08, "empty")
    assert memory.stream_figure([], [], 1.6, "empty")


class Balance(HTMLParser):
    """Fails at a tag that is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_well_formed_html(drawn: dict[str, str]) -> None:
    cells = table(("a", "b"), [("1", "<2>")], [("", "best")], cards=True) + bars([Bar("a", 0.5, "half", "#123123")])
    text = page("Title & more", "Three sentences.", [Section("S", "text", drawn["growth"] + cells, ["note"])])
    reader = Balance()
    reader.feed(text)
    assert not reader.open
    assert "&lt;2&gt;" in text
    assert "Title &amp; more" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.5, "0.5 s"), (60, "1 min"), (600, "10 min")])
def test_times_are_readable(seconds: float, text: str) -> None:
    assert curves.readable(seconds) == text
