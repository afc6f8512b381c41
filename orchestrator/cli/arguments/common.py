"""Options and types that several verbs share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli.arguments import completing

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


# Generic only in newer versions of click, at least for its type checking.
if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
else:
    _Seconds = click.ParamType


class Duration(_Seconds):
    """`90s`, `5m`, `1h30m`, or a number of seconds; converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value)
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            self.fail(f"{value!r} is not a duration; write it like 90s, 5m or 1h30m", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)


def moment(text: str | None) -> float | None:
    """`10m` (so long ago) or an ISO 8601 time, as seconds since the epoch; raises click.BadParameter."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - Duration().convert(text, None, None)
    except click.BadParameter:
        raise click.BadParameter(
            f"{text!r} is neither a duration like 10m nor a time like 2026-01-31T12:00:00",
            param_hint="--since",
        ) from None


def variables(texts: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE`, or `KEY` for its value here (nothing where it has none); raises click.BadParameter."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--env")
        if equals or key in os.environ:
            found[key] = value if equals else os.environ[key]
    return found


def files(*, required: bool = True) -> Callable[[F], F]:
    return click.option(
        "-f",
        "--file",
        "paths",
        metavar="FILE",
        shell_complete=completing.files,
        multiple=True,
        required=required,
        help="A stack file, a folder (its *.yaml files), or - for standard input; may be repeated.",
    )


def env_file(verb: F) -> F:
    return click.option(
        "--env-file",
        "env_files",
        metavar="FILE",
        shell_complete=completing.files,
        multiple=True,
        help="KEY=VALUE lines for ${KEY} in the manifest; the environment wins over them.",
    )(verb)


def output(*formats: str) -> Callable[[F], F]:
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="A text for people or a versioned document for programs.",
    )


def prune_data(verb: F) -> F:
    return click.option(
        "--prune-data",
        is_flag=True,
        help="Delete volumes too, with their data.",
    )(verb)


def once(verb: F) -> F:
    return click.option(
        "--once",
        is_flag=True,
        help="Do it in this process, without the agent. What was made stays; nobody keeps it so.",
    )(verb)


def timeout(verb: F) -> F:
    return click.option(
        "--timeout",
        type=Duration(),
        default=300.0,
        metavar="T",
        help="Give up waiting after T, like 90s or 5m (the default). What was made stays.",
    )(verb)


def since(verb: F) -> F:
    return click.option(
        "--since",
        metavar="T",
        help="Only what is newer: 10m ago, or a time like 2026-01-31T12:00:00 (local unless it says otherwise).",
    )(verb)
