"""The host's own apt sources and settings, for a build of the same or another release (sources.list(5), apt.conf(5)).

In: /etc/apt and os-release of a host's root. Out: lines of sources, options for apt. Mirrors are the host's and never ours.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import StepError

_SETTINGS = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Retries",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
)
_OFF = ("no", "false", "without", "off", "disable", "0")  # as apt reads a boolean


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One archive: `options` as a one-line source writes them between brackets."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def line(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        bracket = f"[{options}] " if options else ""
        return " ".join(("deb", f"{bracket}{self.uri}", self.suite, *self.components)).rstrip()


def sources_of(suite: str, root: Path = Path("/")) -> tuple[str, ...]:
    """Sources of the release from wherever the host's own release comes from. StepError where none is known."""
    own = codename(root)
    found: dict[str, None] = {}
    for each in read_sources(root):
        base, end = _split(each.suite)
        if base == own and end in ("", "-updates", "-security"):
            # Nothing is updated of what has no stable name yet.
            if suite in ("sid", "unstable") and end:
                continue
            other = Source(uri=each.uri, suite=suite + end, components=each.components, options=each.options)
            found[other.line] = None
    if not found:
        raise StepError(
            f"no source of {own or 'this release'} in /etc/apt, so no mirror is known",
            hint="apt's sources of this host tell where Debian's packages come from: see sources.list(5)",
        )
    return tuple(found)


def public(lines: Iterable[str]) -> str:
    """Their text without the user and password that a URI may hold: for a root that others read."""
    return "".join(re.sub(r"(?<=://)[^/@\s]*@", "", line) + "\n" for line in lines)


def codename(root: Path) -> str:
    """The host's own release; "" where it does not say."""
    try:
        text = (root / "etc/os-release").read_text()
    except OSError:
        return ""
    found = re.search(r"^VERSION_CODENAME=[\"']?([a-z-]+)", text, re.MULTILINE)
    return found[1] if found else ""


def read_sources(root: Path) -> Iterator[Source]:
    """All enabled sources of binary packages, of both forms."""
    folder = root / "etc/apt"
    files = [folder / "sources.list"]
    if (folder / "sources.list.d").is_dir():
        files += sorted((folder / "sources.list.d").iterdir())
    for path in files:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            yield from _lines(text)
        elif path.suffix == ".sources":
            yield from _stanzas(text)


def settings() -> tuple[str, ...]:
    """What the host's apt says of proxies and of how often to try, as options for another apt."""
    try:
        done = subprocess.run(
            ["apt-config", "dump", "--no-empty", *_SETTINGS],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line for line in done.stdout.splitlines() if line.startswith(_SETTINGS))


def _lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        found = re.fullmatch(
            r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)", line.partition("#")[0].strip()
        )
        if found:
            options = dict(each.split("=", 1) for each in (found[1] or "").split() if "=" in each)
            yield Source(uri=found[2], suite=found[3], components=tuple(found[4].split()), options=options)


def _stanzas(text: str) -> Iterator[Source]:
    """deb822(5). A key that stands in the stanza itself cannot be handed on."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "").lower() in _OFF:
            continue
        options = {}
        if (key := fields.get("signed-by", "")) and key.startswith("/"):
            options["signed-by"] = key.split()[0]
        if fields.get("trusted") == "yes":
            options["trusted"] = "yes"
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri=uri, suite=suite, components=components, options=options)


def _split(suite: str) -> tuple[str, str]:
    """`bookworm-security` -> (bookworm, -security)."""
    found = re.fullmatch(r"([a-z]+)(-[a-z-]+)?", suite)
    return (found[1], found[2] or "") if found else (suite, "")
