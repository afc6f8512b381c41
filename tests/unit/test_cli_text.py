"""Tables, sizes, durations and values as the CLI writes them."""

from __future__ import annotations

import click
import pytest

from orchestrator.cli.arguments.common import Duration, moment
from orchestrator.cli.views import text


def test_table_aligns_columns_and_leaves_the_last_one_ragged() -> None:
    assert text.table(("A", "B"), [("long", "x"), ("s", "yy")]) == "A     B\nlong  x\ns     yy"


@pytest.mark.parametrize(
    ("name", "data", "shown"),
    [
        ("limits.memory", 67108864, "64MiB"),
        ("limits.memory", 67108865, "67108865"),
        ("limits.pids", 1024, "1024"),
        ("limits.cpus", 0.5, "0.5"),
        ("stop.grace", 90.0, "1m30s"),
        ("health.interval", 0.5, "500ms"),
        ("limits.memory", None, "(none)"),
        ("init", True, "true"),
        ("command", ["sh", "-c", "true"], "[sh, -c, true]"),
        ("source", {"type": "HostRoot"}, "host"),
        ("source", {"type": "DirectoryRoot", "path": "/srv/root"}, "{directory: /srv/root}"),
        (
            "mounts",
            [{"type": "TmpfsMount", "target": "/tmp", "size": 1 << 20}],
            "[{target: /tmp, tmpfs: 1MiB}]",
        ),
        ("env.WORD", "", '""'),
    ],
)
def test_value_is_shown_in_the_words_of_the_manifest(name: str, data: object, shown: str) -> None:
    assert text.value(name, data) == shown


def test_value_cannot_drive_the_terminal() -> None:
    assert text.value("env.X", "a\x1b[31mb\n") == r"a\x1b[31mb\n"


def test_change_of_a_list_shows_what_differs() -> None:
    same, old, new = {"target": "/a"}, {"target": "/b"}, {"target": "/c"}
    assert text.change("mounts", [same, old], [same, new]) == "[{target: /b}] -> [{target: /c}]"
    assert text.change("mounts", [same, old], [same]) == "[{target: /b}] -> (none)"


def test_long_value_is_cut() -> None:
    assert len(text.value("env.X", "x" * 500)) == 80


@pytest.mark.parametrize(
    ("written", "seconds"), [("5m", 300), ("1h30m", 5400), ("90", 90), ("250ms", 0.25), (7, 7)]
)
def test_duration_is_converted_to_seconds(written: object, seconds: float) -> None:
    assert Duration().convert(written, None, None) == seconds


@pytest.mark.parametrize("written", ["", "5 m", "m", "5x", "-3s", "5m3"])
def test_bad_duration_is_refused(written: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(written, None, None)


def test_moment_takes_a_time_with_its_zone() -> None:
    assert moment("2026-01-31T12:00:00+00:00") == 1769860800.0


def test_bad_moment_is_refused() -> None:
    with pytest.raises(click.BadParameter):
        moment("yesterday")
