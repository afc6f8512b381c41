"""Small shapes of text: tables, sizes, durations, field values. Pure; escapes what a terminal would obey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WRITTEN = {  # where the manifest has another word than the model
    "DirectoryRoot": {"path": "directory"},
    "ArchiveRoot": {"path": "archive"},
    "BindMount": {"source": "bind"},
    "TmpfsMount": {"size": "tmpfs"},
    "Content": {"source": "file"},
}
_BYTES = frozenset({"memory", "memory_high", "swap", "max_size", "size", "read_bps", "write_bps"})
_SECONDS = frozenset({"interval", "timeout", "start_period", "grace"})
_WIDEST = 80


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, the last one ragged."""
    everything = [header, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in everything
    )
    return "\n".join(lines)


def size(count: int) -> str:
    """67108864 -> 64MiB; only where it comes out even, otherwise plain bytes."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


def rough_size(count: float) -> str:
    """1536 -> 1.5KiB, for people who look; three digits at most before the unit."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g}{name}" if count < 1000 * unit else f"{count / unit:.0f}{name}"
    return f"{count:.0f}B"


def duration(seconds: float) -> str:
    """Seconds to at most two units: 0.5 -> 500ms, 90 -> 1m30s, 7200 -> 2h."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms" if seconds else "0s"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = round(seconds)
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit}{name}" + (f"{rest}{below_name}" if rest else "")
    return f"{whole}s"


def value(name: str, data: Any) -> str:
    """A field's encoded value in the words of the manifest; `name` is its dotted name."""
    last = name.rpartition(".")[2]
    if data is None:
        return "(not known before it is built)" if name == "source.digest" else "(none)"
    if isinstance(data, bool):
        return str(data).lower()
    if isinstance(data, int) and last == "mode":
        return f'"{data:04o}"'
    if isinstance(data, int) and last in _BYTES:
        return size(data)
    if isinstance(data, int | float) and last in _SECONDS:
        return duration(data)
    if isinstance(data, Mapping):
        return _mapping(data)
    if isinstance(data, str) and data.startswith("sha256:"):
        return data[:19]
    if isinstance(data, list | tuple):
        return shortened("[" + ", ".join(value(last, each) for each in data) + "]")
    return shortened(printable(str(data))) or '""'


def _mapping(data: Mapping[str, Any]) -> str:
    """The class name of a union's value is for us: people wrote keys."""
    if data.get("type") == "HostRoot":
        return "host"
    if data.get("type") == "ImageRoot":
        return f"image {value('source.digest', data.get('digest'))}"
    if data.get("type") == "RecipeRoot":
        return f"recipe {data['key'][:12]}, {value('source.digest', data.get('digest'))}"
    written = _WRITTEN.get(data.get("type", ""), {})
    rows = ((written.get(key, key), value(key, each)) for key, each in data.items() if key != "type")
    return "{" + ", ".join(f"{key}: {each}" for key, each in rows) + "}"


def change(name: str, old: Any, new: Any) -> str:
    """`64MiB -> 128MiB`; of lists only the entries that differ; of a secret's content nothing."""
    if name.startswith("bound."):
        return "another file is there now"
    if name.startswith("contents."):
        return _content_change(name, old, new)
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and any(isinstance(each, Mapping) for each in old + new)
    ):
        gone, come = [each for each in old if each not in new], [each for each in new if each not in old]
        old, new = gone or None, come or None
    return f"{value(name, old)} -> {value(name, new)}"


def _content_change(name: str, old: Any, new: Any) -> str:
    if not isinstance(old, Mapping) or not isinstance(
        new, Mapping
    ):  # drift, or it comes or goes with its mount
        return (
            "not mounted any more"
            if new is None
            else "new"
            if old is None
            else f"{value(name, old)} -> put back"
        )
    if old["digest"] == new["digest"]:
        before, after = ({key: each for key, each in data.items() if key != "digest"} for data in (old, new))
        return f"{_mapping(before)} -> {_mapping(after)}"
    if name.startswith("contents.secret/"):
        return "content changed"
    return f"content changed ({old['digest'][:12]} -> {new['digest'][:12]})"


def shortened(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def printable(text: str) -> str:
    """Control characters as escapes, so that a name or value cannot drive the terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
