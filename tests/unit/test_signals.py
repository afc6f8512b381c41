"""Names of signals."""

from __future__ import annotations

import signal

import pytest

from orchestrator.errors import UsageError
from orchestrator.model.signals import signal_name, signal_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("sigterm", 15), ("9", 9), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("rtmax", 64), ("USR1", 10)],
)
def test_signals_as_people_write_them(text: str, number: int) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "32", "-9", "SIG", "SIG_IGN", "TERM+1", "RTMIN+31", "9.5", "nonsense", "٩"]
)
def test_what_is_no_signal_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="no signal is called") as caught:
        signal_number(text)
    assert "kill -l" in (caught.value.hint or "") or "mean" in (caught.value.hint or "")


def test_near_name_is_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        signal_number("SIGKIL")
    assert caught.value.hint == "did you mean KILL?"


@pytest.mark.parametrize("number", sorted(signal.valid_signals()))
def test_every_number_has_a_name_that_leads_back(number: int) -> None:
    assert signal_number(signal_name(number)) == number
