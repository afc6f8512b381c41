"""The host's apt sources, read for a build of the same or another release."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.drivers.rootfs.debian.apt import public, read_sources, sources_of
from orchestrator.drivers.rootfs.debian.recipes import installed
from orchestrator.errors import StepError

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/
Suites: bookworm
Components: main
"""
LIST = """\
deb [arch=amd64 signed-by=/k.gpg] http://list.example/debian bookworm main # here
#deb http://off.example bookworm main
deb-src http://source.example bookworm main
deb http://other.example/x stable-x main
"""


def host(folder: Path, *, deb822: str = "", lines: str = "", codename: str = "bookworm") -> Path:
    apt = folder / "etc/apt/sources.list.d"
    apt.mkdir(parents=True)
    (folder / "etc/os-release").write_text(f"ID=debian\nVERSION_CODENAME={codename}\n")
    (apt / "debian.sources").write_text(deb822)
    (apt / "more.list").write_text(lines)
    (apt / "more.list.save").write_text("deb http://saved.example bookworm main\n")
    return folder


def test_both_forms_are_read(tmp_path: Path) -> None:
    found = [each.line for each in read_sources(host(tmp_path, deb822=DEB822, lines=LIST))]
    key = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found == [
        f"deb [{key}] http://mirror.example/debian bookworm main contrib",
        f"deb [{key}] http://mirror.example/debian bookworm-updates main contrib",
        "deb http://mirror.example/debian-security bookworm-security main",
        "deb [arch=amd64 signed-by=/k.gpg] http://list.example/debian bookworm main",
        "deb http://other.example/x stable-x main",
    ]


@pytest.mark.parametrize("word", ["NO", "false", "off", "0"])
def test_a_source_is_off_as_apt_reads_it(tmp_path: Path, word: str) -> None:
    text = DEB822.replace("Enabled: no", f"Enabled: {word}")
    assert not [each.uri for each in read_sources(host(tmp_path, deb822=text)) if "off" in each.uri]


def test_another_release_comes_from_the_same_mirrors(tmp_path: Path) -> None:
    root = host(tmp_path, deb822=DEB822)
    assert [each.rsplit("] ")[-1].removeprefix("deb ") for each in sources_of("trixie", root)] == [
        "http://mirror.example/debian trixie main contrib",
        "http://mirror.example/debian trixie-updates main contrib",
        "http://mirror.example/debian-security trixie-security main",
    ]
    assert len(sources_of("sid", root)) == 1


def test_without_sources_there_is_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no mirror"):
        sources_of("bookworm", host(tmp_path, lines="deb http://other.example/x stable-x main\n"))


def test_passwords_of_mirrors_stay_outside(tmp_path: Path) -> None:
    lines = sources_of(
        "bookworm", host(tmp_path, lines="deb http://me:pw@mirror.example/debian bookworm main\n")
    )
    assert "me:pw@" in lines[0]
    assert public(lines) == "deb http://mirror.example/debian bookworm main\n"


def test_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        "Package: b\nStatus: install ok installed\nVersion: 2\nDescription: x\n y: z\n\n"
        "Package: a\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    assert installed(tmp_path) == {"b": "2"}
    assert installed(tmp_path / "none") == {}
