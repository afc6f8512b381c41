"""The scalar forms: what each means, and that everything near it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.manifest import addresses as a
from orchestrator.manifest import scalars as s
from orchestrator.manifest import words
from orchestrator.manifest.interpolate import Interpolated
from orchestrator.manifest.scalars import Unreadable

READ: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (s.size, "64MiB", 64 * 2**20),
    (s.size, "1GiB", 2**30),
    (s.size, "512KiB", 512 * 1024),
    (s.size, "10MB", 10_000_000),
    (s.size, "1.5GiB", 3 * 2**29),
    (s.size, 4096, 4096),
    (s.size, Interpolated("4096"), 4096),
    (s.rate, "50MiB/s", 50 * 2**20),
    (s.duration, "500ms", 0.5),
    (s.duration, "1m30s", 90.0),
    (s.duration, "1h", 3600.0),
    (s.duration, "1.5s", 1.5),
    (s.duration, "0s", 0.0),
    (s.cpuset, "3,0-1,1", "0-1,3"),
    (s.cpuset, 2, "2"),
    (s.stop_signal, "SIGTERM", "TERM"),
    (s.stop_signal, "hup", "HUP"),
    (s.stop_signal, 9, "KILL"),
    (s.user, "postgres", "postgres"),
    (s.user, 1000, "1000"),
    (s.user, "65535:0", "65535:0"),
    (s.name, "a-1", "a-1"),
    (s.inner_path, "/a//b/./", "/a/b"),
    (s.status, "200-399", (200, 399)),
    (s.status, 204, (204, 204)),
    (a.subnet, "10.1.0.0/16", "10.1.0.0/16"),
    (s.ulimit, "unlimited", -1),
    (s.ulimit, -1, -1),
    (s.ulimit, "64KiB", 65536),
    (s.flag, Interpolated("true"), True),
    (a.ports, "8080:80", a.PortForm(host=8080, target=80)),
    (a.ports, "8000-8010:80-90", a.PortForm(host=8000, target=80, count=11)),
    (a.ports, "0.0.0.0:53:5353/udp", a.PortForm(address="0.0.0.0", host=53, target=5353, protocol="udp")),
]

REFUSED: list[tuple[Callable[[Any], Any], Any]] = [
    *(
        (s.size, each)
        for each in (
            "64M",
            "64 mib x",
            "-1",
            "",
            "1e3",
            "١MiB",
            -1,
            True,
            None,
            2**61,
            "9" * 16,
            "1.0000001KiB",
        )
    ),
    *((s.rate, each) for each in ("50MiB", "0MiB/s", 50, "/s")),
    *((s.duration, each) for each in ("", "5", 5, "5 s", "-1s", "1s1m", "1d", "٣s", None)),
    *((s.cpuset, each) for each in ("", "3-1", "a", "0-", "0,,1", True, -1, "99999")),
    *((s.stop_signal, each) for each in ("SIGNAL", "", 0, 65, True, None)),
    *(
        (s.user, each)
        for each in (-1, 65536, 2**31, 2**32 - 1, 2**32, "65536:65536", "a:b:c", ":", "a b", "", None, "../x")
    ),
    *((s.name, each) for each in ("", "-a", "a-", "A", "a_b", "a.b", "a" * 41, 5, None, "ä", "a\n")),
    *((s.inner_path, each) for each in ("", "a", "/a/../b", "/a\0", None)),
    *((s.status, each) for each in ("399-200", 99, 600, "2xx", True)),
    *((a.subnet, each) for each in ("10.1.0.1/16", "10.1.0.0", "10.1.0.0/33", "fd00::/8", None, "x/8")),
    *((a.address, each) for each in ("localhost", "::1", "1.2.3", "*", 5)),
    *((s.flag, each) for each in ("true", 1, None)),
    *(
        (a.ports, each)
        for each in (
            80,
            "80",
            "0:80",
            "80:65536",
            "1-3:1-2",
            "3-1:3-1",
            "[::1]:80:80",
            "80:80/sctp",
            "a:b",
            None,
            "80:",
        )
    ),
    *((s.ulimit, each) for each in ("lots", -2, True, None)),
    *((s.env_value, each) for each in (True, None, [], "a\0b")),
    *((s.sha256, each) for each in ("", "0" * 63, "g" * 64, 5)),
]


@pytest.mark.parametrize(("reader", "written", "meant"), READ)
def test_form_is_read(reader: Callable[[Any], Any], written: Any, meant: Any) -> None:
    found = reader(written)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(("reader", "written"), REFUSED)
def test_form_is_refused_with_what_is_wanted(reader: Callable[[Any], Any], written: Any) -> None:
    with pytest.raises(Unreadable) as refusal:
        reader(written)
    assert refusal.value.message
    assert not refusal.value.message.endswith(".")


@pytest.mark.parametrize(
    "word",
    [
        "yes",
        "No",
        "ON",
        "off",
        "010",
        "0x1f",
        "0o17",
        "1_000",
        "22:22",
        "1:30.5",
        ".inf",
        "-.INF",
        ".nan",
        "9" * 21,
        "1e999",
    ],
)
def test_bare_word_that_yaml_readers_disagree_about_is_an_error(word: str) -> None:
    with pytest.raises(words.Surprise):
        words.plain(word)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("8080:80", "8080:80"),
        ("2s", "2s"),
        ("127.0.0.1", "127.0.0.1"),
        ("-D", "-D"),
        ("", None),
        ("~", None),
        ("y", "y"),
        ("7", 7),
        ("-7", -7),
        ("1.5", 1.5),
        ("true", True),
    ],
)
def test_bare_word_has_its_plain_meaning(word: str, value: Any) -> None:
    assert words.plain(word) == value


@pytest.mark.parametrize("word", ["1.10", "+5", "1e5", "0.0", "-0"])
def test_number_in_the_environment_keeps_its_text(word: str) -> None:
    assert s.env_value(words.plain(word)) == word
