"""Where the bytes of a sparse member belong: GNU tar's own format, and its three in pax headers (tar(1) manual, "Storing
Sparse Files").

In: headers and what follows them, unchecked. Out: extents, checked: (offset, length), rising, within the file's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.drivers.rootfs import tarwords
from orchestrator.drivers.rootfs.tarwords import BLOCK, TarError

KEY = "GNU.sparse."
_MOST = 100_000  # extents
_MAP = "the map of a sparse member"
Extents = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class SparseWords:
    """What pax headers said of it. `pairs`: offsets and lengths of format 0.0, in the order of the records."""

    pairs: list[bytes] = field(default_factory=list)
    words: dict[str, bytes] = field(default_factory=dict)

    def tell(self, key: str, value: bytes) -> None:
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            self.pairs.append(value)
        else:
            self.words[key.removeprefix(KEY)] = value

    @property
    def said(self) -> bool:
        return bool(self.pairs or self.words)

    @property
    def name(self) -> bytes | None:
        return self.words.get("name")

    def size(self) -> int:
        """Of the file with its holes."""
        found = self.words.get("realsize", self.words.get("size", b""))
        return tarwords.size(tarwords.decimal(found, "the size of a sparse member"))

    def extents(self, block: Callable[[], bytes]) -> Extents:
        """`block` reads the next 512 of the member's bytes, of which the map of format 1.0 takes the first."""
        if self.words.get("major", b"0") != b"0":
            return checked(_before_data(block), self.size())
        raw = self.words["map"].split(b",") if "map" in self.words else self.pairs
        return checked([tarwords.decimal(each, _MAP) for each in raw if each], self.size())


def _before_data(block: Callable[[], bytes]) -> list[int]:
    """Lines of decimals, first how many pairs follow, padded to blocks."""
    first = block()
    count = tarwords.decimal(first.partition(b"\n")[0], _MAP)
    if count > _MOST:
        raise TarError(f"a sparse member of {count} parts")
    blocks, lines = [first], first.count(b"\n")
    while lines < 2 * count + 1:
        if len(blocks) * BLOCK > 45 * (count + 12):
            raise TarError(f"{_MAP} does not end")
        blocks.append(block())
        lines += blocks[-1].count(b"\n")
    return [tarwords.decimal(each, _MAP) for each in b"".join(blocks).split(b"\n")[1 : 2 * count + 1]]


def old_extents(header: bytes, block: Callable[[], bytes]) -> tuple[Extents, int]:
    """Of GNU's type S, with the file's size. `block` reads a further block of the header."""
    size = tarwords.size(tarwords.number(header[483:495]))
    raw, more = header[386:482], header[482]
    numbers: list[int] = []
    while True:
        for at in range(0, len(raw), 24):
            if raw[at : at + 24].strip(b"\0"):
                numbers += [tarwords.number(raw[at : at + 12]), tarwords.number(raw[at + 12 : at + 24])]
        if not more:
            return checked(numbers, size), size
        if len(numbers) > 2 * _MOST:
            raise TarError(f"a sparse member of more than {_MOST} parts")
        raw = block()
        raw, more = raw[:504], raw[504]


def checked(numbers: Sequence[int], size: int) -> Extents:
    if len(numbers) % 2:
        raise TarError(f"{_MAP} is damaged")
    found, at = tuple(zip(numbers[::2], numbers[1::2], strict=True)), 0
    for offset, length in found:
        if offset < at or length < 0 or offset + length > size:
            raise TarError("the parts of a sparse member lie over each other, or outside it")
        at = offset + length
    return found
