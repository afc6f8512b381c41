"""Rendering of diagnostics: the place is under the marks, whatever the line holds."""

from __future__ import annotations

import pytest

from orchestrator.diagnostics import Diagnostic, Span, render


def excerpt(line: str, column: int, width: int) -> tuple[str, str]:
    span = Span(file="f", line=1, column=column, width=width)
    out = render([Diagnostic(code="ORC001", message="m", span=span)], {"f": line}).splitlines()
    assert out[3].startswith("1 | ")
    assert out[4].startswith("  | ")
    return out[3][4:], out[4][4:]


@pytest.mark.parametrize("column", [1, 30, 100, 500, 4_991, 4_995])
def test_a_line_of_any_length_is_cut_around_the_place(column: int) -> None:
    line = "." * (column - 1) + "here" + "." * (4_996 - column)
    source, marks = excerpt(line, column, 4)
    assert len(source) <= 242
    assert source[len(marks) - 4 : len(marks)] == "here"
    assert marks.strip() == "^^^^"
    assert source.endswith("…") == (column < 4_000)
    assert source.startswith("…") == (column > 61)


def test_a_place_wider_than_what_is_shown_is_marked_as_far_as_shown() -> None:
    source, marks = excerpt("stack: " + "9" * 1_000_000, 8, 1_000_000)
    assert len(source) == 241
    assert marks == " " * 7 + "^" * 233


def test_a_short_line_is_shown_whole_without_what_a_terminal_acts_on() -> None:
    assert excerpt("a: \x1b[31mred", 4, 3) == ("a:  [31mred", "   ^^^")
