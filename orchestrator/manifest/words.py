"""What a bare (unquoted) YAML scalar means here: YAML 1.2's plain cases, and an error where YAML readers disagree.

In: the text of a scalar. Out: None, bool, int, float or str; raises `Surprise`. Numbers keep their text when it differs
from how Python writes them, so that `env: {VERSION: 1.10}` gives "1.10".
"""

from __future__ import annotations

import re

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OLD_BOOL = frozenset(
    each for word in ("yes", "no", "on", "off") for each in (word, word.capitalize(), word.upper())
)
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_DIGITS = 20

# (pattern, what it is, hint with the text): what YAML 1.1 or 1.2 reads as a number and people do not
_NUMBERS = (
    (
        re.compile(r"[-+]?0[0-9_]+"),
        "an octal number to some YAML readers",
        'write it without the leading 0, or quote it: "{}"',
    ),
    (
        re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"),
        "a hexadecimal, octal or binary number",
        'write it in decimal, or quote it: "{}"',
    ),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
        "a number in base 60 to some YAML readers",
        'quote it: "{}"',
    ),
    (
        re.compile(r"[-+]?[0-9][0-9_]*_[0-9_.]*"),
        "a number to some YAML readers",
        'write it without _, or quote it: "{}"',
    ),
    (re.compile(r"[-+]?\.(inf|Inf|INF|nan|NaN|NAN)"), "not a finite number", 'quote it if it is text: "{}"'),
)


class Surprise(ValueError):
    """A bare scalar that is read differently by different YAML readers; `hint` says how to write it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Int(int):
    """A whole number whose `text` differs from str() of it (`+5`)."""

    text: str


class Real(float):
    """A number with a fraction or exponent, and its `text` as written."""

    __slots__ = ("text",)
    text: str


Scalar = None | bool | int | float | str


def plain(text: str) -> Scalar:
    """The value of a bare scalar; raises Surprise."""
    if text in _NULL:
        return None
    if text[0] in "0123456789+-.":
        return _number(text)
    if text in _BOOL:
        return _BOOL[text]
    if text in _OLD_BOOL:
        meant = "true" if text.lower() in ("yes", "on") else "false"
        raise Surprise(
            f'a bare "{text}" is a boolean to some YAML readers and a word to others',
            f'write {meant}, or quote it: "{text}"',
        )
    return text


def key(text: str) -> str:
    """A bare mapping key as text; raises Surprise."""
    if text in _NULL or text in _BOOL or text in _OLD_BOOL:
        what = "an empty key" if not text else f'a bare "{text}" as a key'
        raise Surprise(f"{what} is not text to all YAML readers", f'quote it: "{text}"')
    return text


def _number(text: str) -> Scalar:
    if _INT.fullmatch(text):
        if len(text.lstrip("+-")) > _DIGITS:
            raise Surprise(f"a number of more than {_DIGITS} digits", "quote it if it is text")
        value = int(text)
        if str(value) == text:
            return value
        kept = Int(value)
        kept.text = text
        return kept
    for pattern, what, hint in _NUMBERS:
        if pattern.fullmatch(text):
            shown = text if len(text) <= 40 else text[:37] + "..."
            raise Surprise(f'a bare "{shown}" is {what}', hint.format(shown))
    if not _FLOAT.fullmatch(text):
        return text
    real = Real(text)
    if real in (float("inf"), float("-inf")):
        raise Surprise("a number too large to hold", "quote it if it is text")
    real.text = text
    return real
