"""An nftables table as a value, and the text that makes it or leads from one to the next.

In: `Table`s. Out: scripts for `nft -f -`, each one transaction. A whole table costs the kernel about 16 ms (it waits for
readers of the old one), an element 1 ms: hence `change`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import indent


@dataclass(frozen=True, slots=True)
class Set:
    """A named set, or (with `:` in its type) a map; `elements` maps keys to values, to "" in a set."""

    type: str
    elements: Mapping[str, str]
    interval: bool = False

    @property
    def kind(self) -> str:
        return "map" if ":" in self.type else "set"


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of family ip."""

    name: str
    sets: Mapping[str, Set]
    chains: Mapping[str, Chain]


def whole(table: Table) -> str:
    """The transaction that puts the table in the place of what bears its name."""
    blocks = [
        *(_block(f"{each.kind} {name}", _declared(each)) for name, each in table.sets.items()),
        *(_block(f"chain {name}", _ruled(each)) for name, each in table.chains.items()),
    ]
    body = indent("\n".join(blocks), "\t")
    return f"{remove(table.name)}table ip {table.name} {{\n{body}}}\n"


def remove(name: str) -> str:
    """The transaction that removes the table, there or not."""
    return f"table ip {name}\ndelete table ip {name}\n"


def change(old: Table, new: Table) -> str | None:
    """The transaction from `old` to `new`; "" where they are equal, None where only `whole` leads there."""
    shapes = [{name: (each.type, each.interval) for name, each in table.sets.items()} for table in (old, new)]
    hooks = [{name: each.hook for name, each in table.chains.items() if each.hook} for table in (old, new)]
    if old.name != new.name or shapes[0] != shapes[1] or hooks[0] != hooks[1]:
        return None
    return "".join(f"{line}\n" for line in _changes(old, new))


def _changes(old: Table, new: Table) -> Iterator[str]:
    table = new.name
    for name, chain in new.chains.items():
        before = old.chains.get(name)
        if before is None:
            yield f"add chain ip {table} {name}"
        elif before != chain:
            yield f"flush chain ip {table} {name}"
        if before != chain:
            yield from (f"add rule ip {table} {name} {rule}" for rule in chain.rules)
    for name, each in new.sets.items():
        was = old.sets[name].elements
        gone = [key for key, value in was.items() if each.elements.get(key) != value]
        added = {key: value for key, value in each.elements.items() if was.get(key) != value}
        if gone:
            yield f"delete element ip {table} {name} {{ {', '.join(gone)} }}"
        if added:
            yield f"add element ip {table} {name} {{ {', '.join(_elements(added))} }}"
    for name in old.chains:
        if name not in new.chains:
            yield f"flush chain ip {table} {name}"
            yield f"delete chain ip {table} {name}"


def _elements(elements: Mapping[str, str]) -> Iterator[str]:
    return (f"{key} : {value}" if value else key for key, value in elements.items())


def _declared(each: Set) -> list[str]:
    lines = [f"type {each.type}"]
    if each.interval:
        lines.append("flags interval")
    if each.elements:
        lines.append("elements = {\n" + indent(",\n".join(_elements(each.elements)), "\t") + "\n}")
    return lines


def _ruled(each: Chain) -> list[str]:
    return [*([f"type {each.hook}; policy accept;"] if each.hook else []), *each.rules]


def _block(head: str, lines: list[str]) -> str:
    return f"{head} {{\n{indent(chr(10).join(lines), chr(9))}\n}}\n"
