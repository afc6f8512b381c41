"""What all that reads tar headers has in common: their numbers, and the error."""

from __future__ import annotations

BLOCK = 512
MAX_SIZE = 1 << 50


class TarError(ValueError):
    """The archive is damaged, or says what no archive should say."""


def number(raw: bytes) -> int:
    """Octal text, or base 256 where the first byte's top bit is set (GNU)."""
    if raw[0] & 0x80:
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big") if raw[0] == 0x80 else -1
    text = raw.replace(b"\0", b" ").strip()
    try:
        return int(text or b"0", 8)
    except ValueError:
        raise TarError("it is no tar archive, or damaged: a header's number is none") from None


def decimal(raw: bytes, what: str) -> int:
    if not raw.isdigit() or len(raw) > 20:
        raise TarError(f"{what} is no number")
    return int(raw)


def size(found: int) -> int:
    """As a member may claim it."""
    if not 0 <= found <= MAX_SIZE:
        raise TarError(f"a member claims a size of {found} bytes")
    return found
