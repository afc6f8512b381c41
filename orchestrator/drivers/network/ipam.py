"""Subnets for networks and addresses for their members, kept in one file for each network.

In: a pool, the subnets that the host already routes. Out: `Allocation`s, the same for the same history: the first free
subnet, the first free address. An address stays with its name for as long as the network lives; the name that left while
its group is still attached is `held` until that is gone. The first address of a subnet is the host's (the gateway).
Stacks that share a network see their own names bare and all others as `NAME.STACK`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from orchestrator.drivers.network import files
from orchestrator.errors import HostError, StepError
from orchestrator.ports.layout import Layout

DEFAULT_POOL = IPv4Network("10.87.0.0/16")
_PREFIX = 24  # bigger where a quarter of it would not stay free


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One network's subnet and its members' addresses; `id` is the incarnation that holds it."""

    id: str
    subnet: IPv4Network
    members: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)

    @property
    def gateway(self) -> str:
        return str(self.subnet.network_address + 1)

    @property
    def own(self) -> tuple[str, ...]:
        """The members that are the stack's who looks at it."""
        return tuple(name for name in self.members if "." not in name)


def located(stack: str, network: str) -> tuple[str, str]:
    """(stack, name) of whose network it is: `infra/edge` is of infra, whoever asks."""
    owner, _, name = network.rpartition("/")
    return owner or stack, name


def capacity(subnet: IPv4Network) -> int:
    """How many members fit: all but network, gateway and broadcast address."""
    return max(0, subnet.num_addresses - 3)


def routed(table: str, ours: Callable[[str], bool]) -> tuple[tuple[IPv4Network, str], ...]:
    """(subnet, link) of /proc/net/route's text, without default routes and routes over `ours`."""
    found = []
    for line in table.splitlines()[1:]:
        link, target, *_, mask = line.split()[:8]
        if ours(link) or mask == "00000000":
            continue
        network = IPv4Address(bytes.fromhex(target)[::-1])
        found.append(
            (IPv4Network((int(network), int.from_bytes(bytes.fromhex(mask), "big").bit_count())), link)
        )
    return tuple(found)


Read = Callable[[str, str], Allocation | None]
"""(stack, network) to the allocation as the stack sees it."""


class Ipam:
    """The allocations of one instance. Safe for threads and processes: writers hold a lock file."""

    def __init__(
        self, layout: Layout, pool: IPv4Network, taken: Callable[[], Iterable[tuple[IPv4Network, str]]]
    ) -> None:
        self._folder, self._base = layout.networks, os.fspath(layout.networks)
        self._instance = layout.instance
        self._pool = pool
        self._taken = taken
        self._seen: dict[str, tuple[tuple[int, int, int], Allocation]] = {}
        self._views: dict[tuple[str, str], tuple[Allocation, Allocation]] = {}  # of those who borrow it
        self._mutex = threading.Lock()

    def read(self, stack: str, network: str) -> Allocation | None:
        """As `stack` sees it; None where the network has no subnet yet. Costs a stat(2) while the file is unchanged."""
        owner, name = located(stack, network)
        path = f"{self._base}/{owner}.{name}.json"
        found = self._read(path)
        if found is None or owner == stack:
            return found
        with self._mutex:
            view = self._views.get((stack, path))
            if view is None or view[0] is not found:
                view = (found, _seen_by(stack, owner, found))
                self._views[stack, path] = view
        return view[1]

    def look(self) -> Read:
        """`read` for one look at many: the kernel is asked once for each network."""
        return cache(self.read)

    def _read(self, path: str) -> Allocation | None:
        try:
            state = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            return None
        mark = (state.st_ino, state.st_mtime_ns, state.st_size)
        with self._mutex:
            seen = self._seen.get(path)
        if seen is None or seen[0] != mark:
            seen = (mark, _load(Path(path)))
            with self._mutex:
                self._seen[path] = seen
        return seen[1]

    def others(self, stack: str) -> tuple[tuple[str, Allocation], ...]:
        """(`stack.network`, allocation) of all other stacks."""
        prefix = f"{stack}."
        return tuple((name, each) for name, each in self._all() if not name.startswith(prefix))

    def allocate(
        self,
        stack: str,
        network: str,
        id: str,
        members: Sequence[str],
        subnet: str | None,
        attached: Iterable[str],
    ) -> Allocation:
        """Give the network its subnet and exactly `members`, of this stack, their addresses; `attached` ones are held.

        Raises StepError where nothing is free, HostError where the pool is used up or clashes with the host.
        """
        owner, name = located(stack, network)
        with self._locked():
            before = old = self.read(stack, network)
            if old is None and owner != stack:
                raise StepError(f"network {network} is not there", hint=f"apply stack {owner} first")
            if old is None or (subnet is not None and IPv4Network(subnet) != old.subnet):
                block = IPv4Network(subnet) if subnet else self._cut(len(members), f"{stack}.{network}")
                old = Allocation(id=id, subnet=block)
            others = [each for each in old.members if "." in each]
            # Those of the owner first, then whoever came first: a bare name is given in this order.
            wanted = (*members, *others) if owner == stack else _in_place(old, members)
            known = {**old.held, **old.members}
            stay, living = frozenset(wanted), frozenset(attached)
            held = {
                each: address
                for each, address in known.items()
                if each not in stay and (address in living or "." in each)
            }
            kept = {each: known[each] for each in wanted if each in known}
            new = replace(
                old,
                id=id if owner == stack else old.id,
                held=held,
                members=_fill(old.subnet, wanted, kept, held, network),
            )
            if new != before:
                self._store(owner, name, _seen_by(owner, stack, new))
            return new

    def include(self, stack: str, network: str, names: Sequence[str]) -> Allocation:
        """As `allocate`, but only adds names that are not there yet."""
        found = self.read(stack, network)
        if found is not None and all(name in found.members for name in names):
            return found
        owner, name = located(stack, network)
        with self._locked():
            old = self.read(stack, network)
            if old is None:
                raise StepError(f"network {network!r} has no subnet yet", hint="apply the stack again")
            wanted = [*old.members, *(name for name in names if name not in old.members)]
            kept = {**{name: old.held[name] for name in names if name in old.held}, **old.members}
            held = {name: each for name, each in old.held.items() if name not in names}
            new = replace(old, held=held, members=_fill(old.subnet, wanted, kept, held, network))
            self._store(owner, name, _seen_by(owner, stack, new))
            return new

    def release(self, stack: str, network: str, id: str) -> None:
        """Give all of an own network back, unless a newer incarnation has taken the network over."""
        with self._locked():
            found = self.read(stack, network)
            if found is not None and found.id == id:
                self._path(stack, network).unlink(missing_ok=True)

    def _cut(self, members: int, name: str) -> IPv4Network:
        prefix = _PREFIX
        while prefix > self._pool.prefixlen and capacity(IPv4Network((0, prefix))) * 4 < members * 5:
            prefix -= 1
        used = [(each.subnet, f"network {other}") for other, each in self._all()]
        used += [(subnet, f"the host's route over {link}") for subnet, link in self._taken()]
        size = 1 << (32 - prefix)
        count = self._pool.num_addresses // size
        # Each instance begins elsewhere, so that two that share the pool seldom meet.
        start = 0 if self._instance == "main" else zlib.crc32(self._instance.encode()) % max(count, 1)
        base = int(self._pool.network_address)
        for step in range(count):
            block = IPv4Network((base + (start + step) % count * size, prefix))
            if not any(block.overlaps(subnet) for subnet, _ in used):
                return block
        raise HostError(
            f"no free /{prefix} for {name} in the address pool {self._pool}",
            hint="set ORCHESTRATOR_POOL to a private range that this host does not route, or pin `subnet:`",
        )

    def _all(self) -> Iterator[tuple[str, Allocation]]:
        for path in sorted(self._folder.glob("*.json")):
            stack, _, network = path.stem.partition(".")
            found = self.read(stack, network)
            if found is not None:
                yield path.stem, found

    def _path(self, stack: str, network: str) -> Path:
        return self._folder / f"{stack}.{network}.json"

    def _store(self, stack: str, network: str, each: Allocation) -> None:
        data = {"id": each.id, "subnet": str(each.subnet), "members": each.members, "held": each.held}
        files.replace(self._path(stack, network), json.dumps(data, separators=(",", ":")))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._folder / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _in_place(old: Allocation, members: Sequence[str]) -> tuple[str, ...]:
    """All of `old` but own names that are not among `members`, then the new ones."""
    asked = frozenset(members)
    stay = [each for each in old.members if "." in each or each in asked]
    return (*stay, *(each for each in members if each not in old.members))


def _seen_by(stack: str, other: str, each: Allocation) -> Allocation:
    """What `other` sees, as `stack` sees it: its own names bare, those of `other` with a suffix."""

    def named(names: Mapping[str, str]) -> dict[str, str]:
        return {_renamed(name, stack, other): address for name, address in names.items()}

    return each if stack == other else replace(each, members=named(each.members), held=named(each.held))


def _renamed(name: str, stack: str, other: str) -> str:
    bare, _, suffix = name.partition(".")
    if not suffix:
        return f"{name}.{other}"
    return bare if suffix == stack else name


def _fill(
    subnet: IPv4Network,
    members: Sequence[str],
    kept: Mapping[str, str],
    held: Mapping[str, str],
    network: str,
) -> dict[str, str]:
    used = {*kept.values(), *held.values()}
    base = int(subnet.network_address)
    free = (
        text
        for number in range(base + 2, base + subnet.num_addresses - 1)
        if (text := f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}") not in used
    )
    try:
        return {name: kept[name] if name in kept else next(free) for name in members}
    except StopIteration:
        raise StepError(
            f"network {network!r}: {subnet} has room for {capacity(subnet)} members, {len(members)} are asked for",
            hint="pin a bigger `subnet:`",
        ) from None


def _load(path: Path) -> Allocation:
    try:
        data = json.loads(path.read_text())
        return Allocation(
            id=data["id"], subnet=IPv4Network(data["subnet"]), members=data["members"], held=data["held"]
        )
    except (ValueError, LookupError, TypeError) as error:
        raise HostError(
            f"{path} cannot be read as an allocation", hint="remove it and apply again"
        ) from error
