"""`${VAR}` and its forms inside one scalar.

In: a text and `Variables`. Out: the text with variables put in, and every problem with its offset. Forms: `${A}`,
`${A:-default}` (unset or empty), `${A-default}` (unset), `${A:?message}`, `${A?message}`, `${A:+other}`, `${A+other}`, `$$`
for one dollar sign. A `$` before anything else stays as it is, so shell lines need few escapes. Must not read the
environment itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.manifest.codes import Code

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
_DEPTH = 10
_MOST = 16 * 1024 * 1024  # characters put in by one file's variables: a ceiling for hostile input


class Interpolated(str):
    """A scalar into which a variable was put: its target field decides what it is (`replicas: ${N}`)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong at `offset` (in characters of the scalar), `width` characters wide."""

    code: Code
    message: str
    hint: str
    offset: int
    width: int


class Variables:
    """Names to values: `first` wins over what `later` reads (called once, at the first name that `first` lacks)."""

    def __init__(self, first: Mapping[str, str], later: Callable[[], Mapping[str, str]] = dict) -> None:
        self._first = first
        self._later = later
        self._read: Mapping[str, str] | None = None
        self.room = _MOST

    def get(self, name: str) -> str | None:
        if name in self._first:
            return self._first[name]
        if self._read is None:
            self._read = self._later()
        return self._read.get(name)


def interpolate(text: str, variables: Variables) -> tuple[str, tuple[Problem, ...]]:
    """The text with variables put in (an `Interpolated` when there was one), and its problems."""
    problems: list[Problem] = []
    out = _Expansion(variables, problems).text(text, 0, depth=0)
    return (Interpolated(out) if "${" in text else out), tuple(problems)


class _Expansion:
    def __init__(self, variables: Variables, problems: list[Problem]) -> None:
        self._variables = variables
        self._problems = problems

    def text(self, text: str, base: int, *, depth: int) -> str:
        out, position = [], 0
        while (at := text.find("$", position)) >= 0:
            out.append(text[position:at])
            position = at + 1
            following = text[position : position + 1]
            if following == "{":
                end = _closing(text, at + 2)
                if end < 0:
                    self._problem(
                        Code.INTERPOLATION,
                        '"${" is never closed',
                        "add }, or write $${ for a literal ${",
                        (base + at, 2),
                    )
                    return ""
                out.append(self._one(text[at + 2 : end], (base + at, end + 1 - at), depth))
                position = end + 1
            else:
                out.append("$")
                position += following == "$"
        out.append(text[position:])
        return "".join(out)

    def _one(self, body: str, place: tuple[int, int], depth: int) -> str:
        found = _NAME.match(body)
        name = found.group() if found else ""
        operator = _OPERATOR.match(body, len(name))
        if not name or (len(body) > len(name) and not operator) or depth >= _DEPTH:
            shown = body if len(body) <= 40 else body[:37] + "..."
            self._problem(
                Code.INTERPOLATION,
                f'cannot read "${{{shown}}}"',
                "write ${NAME}, ${NAME:-default}, ${NAME:?message} or ${NAME:+other}; $$ is a literal dollar sign",
                place,
            )
            return ""
        value = self._variables.get(name)
        if operator is None:
            return self._put(name, value, place)
        word, sign = body[operator.end() :], operator.group()
        there = value is not None and (value != "" or ":" not in sign)
        start = place[0] + 2 + operator.end()
        if sign[-1] == "+":
            return self.text(word, start, depth=depth + 1) if there else ""
        if there:
            return self._put(name, value, place)
        if sign[-1] == "-":
            return self.text(word, start, depth=depth + 1)
        why = word or ("is empty" if value == "" else "is not set")
        self._problem(
            Code.REQUIRED,
            f"variable {name}: {why}",
            f"set {name} in the environment, with --env-file or in .env",
            place,
        )
        return ""

    def _put(self, name: str, value: str | None, place: tuple[int, int]) -> str:
        if value is None:
            self._problem(
                Code.UNSET,
                f"variable {name} is not set",
                f"set it in the environment, with --env-file or in .env, or write ${{{name}:-default}}; $$ is a literal $",
                place,
            )
            return ""
        self._variables.room -= len(value)
        if self._variables.room < 0:
            self._problem(Code.TOO_LARGE, "variables expand to more than 16 MiB", "use shorter values", place)
            return ""
        return value

    def _problem(self, code: Code, message: str, hint: str, place: tuple[int, int]) -> None:
        self._problems.append(Problem(code=code, message=message, hint=hint, offset=place[0], width=place[1]))


def _closing(text: str, start: int) -> int:
    """Where the `}` is that closes the `${` before `start`; -1 when there is none."""
    depth = 1
    for found in re.compile(r"\$\{|\}").finditer(text, start):
        depth += 1 if found.group() == "${" else -1
        if not depth:
            return found.start()
    return -1
