"""The hosts, hostname and resolv.conf of attached groups: written in place, and looked at whether they still are so.

In: attached groups, allocations, the host's name servers. Out: files in the groups' run folders. A file is read again only
when its mark or what it is made from changed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

from orchestrator.drivers import marks
from orchestrator.drivers.network import files
from orchestrator.drivers.network.attached import Attached, Register
from orchestrator.drivers.network.ipam import Allocation, Ipam, Read
from orchestrator.drivers.network.rules import NetworkRules


class GroupFiles:
    """`upstream`: the name servers of the host that groups can reach."""

    def __init__(self, register: Register, ipam: Ipam, upstream: Callable[[], Sequence[str]]) -> None:
        self._register = register
        self._ipam = ipam
        self.upstream = upstream
        # Asked for last: groups of a stack are mostly on the same networks.
        self._everybody: tuple[tuple[Allocation, ...], files.Everybody] = ((), files.Everybody(()))
        self._right: dict[str, tuple[tuple[object, ...], tuple[marks.Mark | None, ...]]] = {}

    def write(self, each: Attached, joined: Mapping[str, NetworkRules]) -> None:
        """All three; `joined` are the rules of its networks."""
        for name, text in self._texts(each, self.allocated(each), joined, self.upstream()).items():
            files.write(Path(self._register.folder(each.id), name), text())

    def write_hosts(self, each: Attached) -> None:
        text = self._hosts(each, self.allocated(each))
        files.write(Path(self._register.folder(each.id), "hosts"), text)

    def allocated(self, each: Attached, read: Read | None = None) -> Mapping[str, Allocation]:
        read = read or self._ipam.read
        return {name: found for name in each.networks if (found := read(each.stack, name)) is not None}

    def wrong(
        self,
        each: Attached,
        allocated: Mapping[str, Allocation],
        joined: Mapping[str, NetworkRules],
        upstream: Sequence[str],
    ) -> tuple[str, ...]:
        """The files that do not hold what they should."""
        folder = self._register.folder(each.id)
        texts = self._texts(each, allocated, joined, upstream)
        now = tuple([marks.of(f"{folder}/{name}") for name in texts])
        sources = (each, upstream, joined, *allocated.values())
        known = self._right.get(each.id)
        if known is not None and known[1] == now and _same(known[0], sources):
            return ()
        settled = all(map(marks.settled, now))
        found = tuple(name for name, text in texts.items() if not _holds(f"{folder}/{name}", text()))
        if settled and not found:
            self._right[each.id] = (sources, now)
        return found

    def keep(self, ids: Container[str]) -> None:
        """Forget all other groups: they are gone."""
        for id in [each for each in self._right if each not in ids]:
            self._right.pop(id, None)

    def _texts(
        self,
        each: Attached,
        allocated: Mapping[str, Allocation],
        joined: Mapping[str, NetworkRules],
        upstream: Sequence[str],
    ) -> Mapping[str, Callable[[], str]]:
        """What the files should hold, as far as it is known, made only when it is asked for."""
        found: dict[str, Callable[[], str]] = {
            "hosts": lambda: self._hosts(each, allocated),
            "hostname": lambda: f"{each.hostname}\n",
        }
        if each.dns is not None and len(joined) == len(each.networks):
            dns = each.dns
            found["resolv.conf"] = lambda: files.resolv_conf(dns, upstream, _gateway(joined))
        return found

    def _hosts(self, each: Attached, allocated: Mapping[str, Allocation]) -> str:
        own = next(iter(each.networks.values()), "127.0.0.1")
        allocations = tuple(allocated.values())
        known = self._everybody
        if not _same(known[0], allocations):
            known = allocations, files.Everybody(found.members for found in allocations)
            self._everybody = known
        return known[1].hosts(each.hostname, own)


def _holds(path: str, text: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == text.encode()
    except OSError:
        return False


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """By identity first: an allocation that did not change is the very same object, and may have thousands of members."""
    return len(one) == len(other) and all(a is b or a == b for a, b in zip(one, other, strict=True))


def _gateway(joined: Mapping[str, NetworkRules]) -> str | None:
    return next((each.gateway for each in joined.values() if not each.internal), None)
