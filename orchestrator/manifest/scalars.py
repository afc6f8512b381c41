"""Readers of the language's scalar forms: sizes, durations, rates, ports, cpusets, signals, users, names, addresses.

In: what YAML gave (str, int, float, bool, None, list, dict). Out: plain values in bytes, seconds and numbers; raises
`Unreadable`, whose message says what is accepted, with an example. Pure; knows no field names and no places.
"""

from __future__ import annotations

import difflib
import re
import signal
from typing import Any, NoReturn

from orchestrator.manifest.codes import Code
from orchestrator.manifest.image_names import canonical
from orchestrator.manifest.interpolate import Interpolated
from orchestrator.manifest.words import Int, Real

NAME_LENGTH = 40
HIGHEST_ID = 65_535  # each group has its own range of 65,536 ids (user_namespaces(7))
LARGEST_SIZE = 2**60


class Unreadable(ValueError):
    """A scalar in a form that its field does not take."""

    def __init__(self, message: str, *, hint: str | None = None, code: Code = Code.VALUE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


def describe(value: Any) -> str:
    """What a value is, for "found ..."."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {text_of(value)}"
    if isinstance(value, str):
        shown = value if len(value) <= 60 else value[:57] + "..."
        return '"' + shown.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    return "a list" if isinstance(value, list) else "a mapping"


def text_of(value: float | int) -> str:
    """A number as it was written."""
    return value.text if isinstance(value, Int | Real) else str(value)


def unfit(value: Any, wanted: str, hint: str | None = None) -> NoReturn:
    code = Code.VALUE if isinstance(value, str | int | float) and not isinstance(value, bool) else Code.TYPE
    raise Unreadable(f"expects {wanted}, found {describe(value)}", hint=hint, code=code)


def text(value: Any) -> str:
    """Any text, without a null character."""
    if not isinstance(value, str):
        hint = (
            f'quote it: "{text_of(value)}"'
            if isinstance(value, int | float) and not isinstance(value, bool)
            else None
        )
        raise Unreadable(f"expects text, found {describe(value)}", hint=hint, code=Code.TYPE)
    if "\0" in value:
        raise Unreadable("expects text without null characters")
    return str(value)


def filled(value: Any) -> str:
    """Text that is not empty."""
    return text(value) or unfit(value, "text that is not empty")


def flag(value: Any) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Interpolated) and value in ("true", "false"):
        return value == "true"
    raise Unreadable(f"expects true or false, found {describe(value)}", code=Code.TYPE)


_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,19})")


def whole(value: Any, *, low: int, high: int) -> int:
    """A whole number from `low` to `high`."""
    if isinstance(value, Interpolated) and _WHOLE.fullmatch(value):
        value = int(value)
    wanted = f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        hint = "remove the quotes" if isinstance(value, str) and _WHOLE.fullmatch(value) else None
        raise Unreadable(f"expects {wanted}, found {describe(value)}", hint=hint, code=Code.TYPE)
    return int(value) if low <= value <= high else unfit(value, wanted)


def number(value: Any, *, low: float, high: float) -> float:
    """A number from `low` to `high`, with or without a fraction."""
    if isinstance(value, Interpolated) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        value = float(value)
    wanted = f"a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "remove the quotes" if isinstance(value, str) and re.fullmatch(r"[0-9.]+", value) else None
        raise Unreadable(f"expects {wanted}, found {describe(value)}", hint=hint, code=Code.TYPE)
    return float(value) if low <= value <= high else unfit(value, wanted)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,6}))? ?([A-Za-z]*)")
SIZE_FORMS = "a size such as 64MiB, 1GiB, 512KiB, 10MB (decimal) or a number of bytes"


def size(value: Any) -> int:
    """Bytes."""
    return _bytes(value, SIZE_FORMS)


def _bytes(value: Any, wanted: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_SIZE:
        return int(value)
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        unfit(value, wanted)
    unit = _UNITS.get(found[3].upper())
    if unit is None:
        unfit(value, wanted, _unit_hint(found[3], found[1]))
    fraction = found[2] or ""
    scaled = int(found[1] + fraction) * unit
    if scaled % 10 ** len(fraction) or scaled // 10 ** len(fraction) > LARGEST_SIZE:
        unfit(value, wanted, "write a whole number of a smaller unit")
    return int(scaled // 10 ** len(fraction))


def _unit_hint(unit: str, amount: str) -> str | None:
    letter = unit[:1].upper()
    return f"did you mean {amount}{letter}iB?" if len(unit) <= 2 and letter in "KMGT" and letter else None


RATE_FORMS = "a rate such as 50MiB/s"


def rate(value: Any) -> int:
    """Bytes a second; more than none."""
    if isinstance(value, str) and value.endswith("/s"):
        return _bytes(type(value)(value[:-2]), RATE_FORMS) or unfit(value, f"{RATE_FORMS} and more than 0")
    unfit(value, RATE_FORMS)


DURATION_FORMS = "a duration such as 500ms, 2s, 1m30s or 1h"
_DURATION = re.compile(
    r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,6})?)s)?(?:(\d{1,9})ms)?", re.ASCII
)


def duration(value: Any) -> float:
    """Seconds."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if found is None:
        bare = isinstance(value, int | float) and not isinstance(value, bool)
        unfit(value, DURATION_FORMS, f"did you mean {text_of(value)}s?" if bare else None)
    hours, minutes, seconds, millis = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0) + int(millis or 0) / 1000


def some_duration(value: Any) -> float:
    """Seconds, more than none."""
    return duration(value) or unfit(value, f"{DURATION_FORMS}, more than 0")


def cpuset(value: Any) -> str:
    """CPU numbers in the kernel's list form, sorted and without overlaps (`0-3,5`; cpuset(7))."""
    wanted = 'cpu numbers such as "0-3,5"'
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 8192:
        return str(int(value))
    if not isinstance(value, str) or not re.fullmatch(
        r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", value
    ):
        unfit(value, wanted)
    found = cpus_of(value)
    if not found or any(int(low) > int(high) for low, high in re.findall(r"(\d+)-(\d+)", value)):
        unfit(value, f"{wanted}, lowest first")
    return cpu_list(found)


def cpus_of(listed: str) -> frozenset[int]:
    """The numbers in a list such as `0-3,5`."""
    found: set[int] = set()
    for part in listed.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def cpu_list(cpus: frozenset[int]) -> str:
    """Numbers as a list such as `0-3,5`."""
    runs: list[list[int]] = []
    for each in sorted(cpus):
        if runs and runs[-1][1] == each - 1:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def stop_signal(value: Any) -> str:
    """A signal's name without SIG; numbers are taken too (signal(7))."""
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return signal.Signals(value).name.removeprefix("SIG")
        return signal.Signals["SIG" + text(value).upper().removeprefix("SIG")].name.removeprefix("SIG")
    except (KeyError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        unfit(value, "a signal such as TERM, HUP or QUIT")


def user(value: Any) -> str:
    """`name`, `uid`, `name:group` or `uid:gid`; numbers from 0 to 65535."""
    wanted = f'a user such as postgres, 1000 or "1000:1000" (numbers up to {HIGHEST_ID})'
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value)) if 0 <= value <= HIGHEST_ID else unfit(value, wanted)
    if not isinstance(value, str):
        unfit(value, wanted)
    parts = value.split(":")
    if len(parts) > 2 or not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", part) for part in parts):
        unfit(value, wanted)
    if any(part.isdigit() and int(part) > HIGHEST_ID for part in parts):
        unfit(value, wanted)
    return str(value)


MODE_FORMS = 'an octal mode in quotes, such as "0400" or "0644"'


def mode(value: Any) -> int:
    """Permission bits from octal digits; a bare number is refused, for YAML readers disagree on its base."""
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return int(value, 8)
    digits = text_of(value) if isinstance(value, int) and not isinstance(value, bool) else ""
    unfit(value, MODE_FORMS, f'did you mean "{digits:0>4}"?' if re.fullmatch(r"[0-7]{3}", digits) else None)


_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
EXTERNAL_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9-]*[a-z0-9])?$"


def name(value: Any) -> str:
    """The name of a stack or of a thing in it."""
    if isinstance(value, str) and len(value) <= NAME_LENGTH and _NAME.fullmatch(value):
        return str(value)
    guess = (
        re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:NAME_LENGTH].strip("-")
        if isinstance(value, str)
        else ""
    )
    raise Unreadable(
        f"expects a name of at most {NAME_LENGTH} lower-case letters, digits and inner dashes, found {describe(value)}",
        hint=f'did you mean "{guess}"?' if guess and guess != value else None,
        code=Code.NAME if isinstance(value, str) else Code.TYPE,
    )


def external(value: Any) -> str:
    """Another stack's thing: `infra/edge`."""
    parts = value.split("/") if isinstance(value, str) else ()
    if len(parts) == 2 and all(len(part) <= NAME_LENGTH and _NAME.fullmatch(part) for part in parts):
        return str(value)
    unfit(value, "the names of a stack and of a thing in it, such as infra/edge")


def hostname(value: Any) -> str:
    """A host name: labels of letters, digits and inner dashes, 63 characters in all (sethostname(2))."""
    label = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
    if isinstance(value, str) and len(value) <= 63 and re.fullmatch(rf"{label}(\.{label})*", value):
        return str(value)
    unfit(value, "a host name such as web or web.example")


def path(value: Any) -> str:
    """A path on this host, absolute or relative to the file that writes it."""
    found = filled(value)
    if found.startswith("~"):
        unfit(value, "a path", "~ is not expanded; write ${HOME}")
    return found


def inner_path(value: Any) -> str:
    """An absolute path inside the container, without `..`."""
    found = filled(value)
    if not found.startswith("/") or ".." in found.split("/"):
        unfit(
            value,
            'an absolute path inside the container without ".."',
            None if found.startswith("/") else f"did you mean /{found}?",
        )
    return "/" + "/".join(part for part in found.split("/") if part not in ("", "."))


SUITE_PATTERN = r"^[a-z][a-z0-9-]*$"
PACKAGE_PATTERN = (
    r"^[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$"  # Debian Policy, 5.6.1 and 5.6.12
)


def suite(value: Any) -> str:
    """The code name of a release of Debian."""
    return _matching(value, SUITE_PATTERN, "a release of Debian such as bookworm")


def package(value: Any) -> str:
    """A Debian package, with a version after = if it is to be just that one."""
    return _matching(value, PACKAGE_PATTERN, "a package such as nginx or nginx=1.22.1-9")


def _matching(value: Any, pattern: str, wanted: str) -> str:
    if isinstance(value, str) and re.fullmatch(pattern, value):
        return str(value)
    unfit(value, wanted)


def image(value: Any) -> str:
    """The name of an image, checked; kept as it was written."""
    found = text(value)
    try:
        canonical(found, "/")
    except ValueError as error:
        raise Unreadable(f"expects the name of an image: {error}") from error
    return found


def sha256(value: Any) -> str:
    """64 hex digits."""
    if isinstance(value, str):
        found = value.lower().removeprefix("sha256:")
        if re.fullmatch(r"[0-9a-f]{64}", found):
            return found
    unfit(value, "64 hexadecimal digits", "sha256sum FILE prints them")


def status(value: Any) -> tuple[int, int]:
    """One HTTP status (200) or a range ("200-399")."""
    wanted = 'a status such as 200 or a range such as "200-399"'
    found = (
        re.fullmatch(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?", str(value))
        if not isinstance(value, bool)
        else None
    )
    if found is None or int(found[1]) > int(found[2] or found[1]):
        unfit(value, wanted)
    return int(found[1]), int(found[2] or found[1])


_SIZED = ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack")
ULIMITS = frozenset({*_SIZED, "cpu", "locks", "nice", "nofile", "nproc", "rtprio", "rttime", "sigpending"})


def ulimit_name(value: Any) -> str:
    """The lower-case name of a process limit, without RLIMIT_ (setrlimit(2))."""
    return str(value) if value in ULIMITS else unfit(value, f"one of {', '.join(sorted(ULIMITS))}")


def ulimit(value: Any) -> int:
    """One bound of one process limit; -1 for `unlimited`."""
    if value == "unlimited" or (value == -1 and not isinstance(value, bool)):
        return -1
    return _bytes(value, 'a whole number, a size such as 64KiB or "unlimited"')


def env_name(value: Any) -> str:
    """The name of an environment variable."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", value):
        return str(value)
    raise Unreadable(
        f"expects the name of a variable such as POSTGRES_DB, found {describe(value)}", code=Code.NAME
    )


def env_value(value: Any) -> str:
    """The text of an environment variable: a string, or a number as it was written."""
    if isinstance(value, bool):
        shown = "true" if value else "false"
        raise Unreadable(
            f"expects text or a number, found {shown}", hint=f'quote it: "{shown}"', code=Code.TYPE
        )
    if isinstance(value, int | float):
        return text_of(value)
    if value is None:
        raise Unreadable(
            "expects text or a number, found nothing", hint='write "" for an empty value', code=Code.TYPE
        )
    return text(value) if isinstance(value, str) else unfit(value, "text or a number")


def choice(value: Any, *options: str) -> str:
    """One of a few words."""
    if value in options:
        return str(value)
    near = difflib.get_close_matches(str(value), options, 1) if isinstance(value, str) else ()
    wanted = f"{', '.join(options[:-1])} or {options[-1]}"
    unfit(value, wanted, f'did you mean "{near[0]}"?' if near else None)


def restart(value: Any) -> str:
    """always, on-failure or never; says which of them a word of Compose is."""
    ours = {"unless-stopped": "always", "no": "never"}.get(value) if isinstance(value, str) else None
    return (
        unfit(value, "always, on-failure or never", f"write {ours}")
        if ours
        else choice(value, "always", "on-failure", "never")
    )
