"""Flows of groups in the kernel's connection tracking: which there are, and how they are forgotten.

In: addresses. Out: `Flow`s, deletions, asked of ctnetlink in the namespace of the host. A look walks the machine's whole
table (9 ms with 262,144 buckets, whatever is in it), so all who ask while one goes on share the next.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.drivers.network import netlink
from orchestrator.drivers.network.look import attributes
from orchestrator.drivers.network.namespace import entered, get_sysctl, told
from orchestrator.drivers.network.netlink import Message, NetlinkError, Socket

_NETFILTER = 12
_GET, _DELETE = 1, 2  # IPCTNL_MSG_CT_*
_ORIGINAL, _PROTOINFO, _ZONE = 1, 4, 18  # CTA_*
_OPEN = range(1, 6)  # TCP_CONNTRACK_SYN_SENT to _CLOSE_WAIT: one side may still say something


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """From `source` to what it called `target`, which `server` answers. `key`: what the kernel finds it by."""

    protocol: int
    state: int
    source: str
    target: str
    server: str
    key: bytes

    def is_open(self) -> bool:
        """Whether somebody may still wait for an answer; of UDP nobody can tell."""
        return self.protocol == socket.IPPROTO_TCP and self.state in _OPEN


class _Look:
    """One look that several threads wait for."""

    def __init__(self) -> None:
        self.addresses: set[bytes] = set()
        self.found: list[Flow] = []
        self.error: BaseException | None = None
        self.done = threading.Event()


@dataclass
class Tracking:
    """`host`: the path of the namespace whose traffic it is. Safe for threads."""

    host: str | None
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _next: _Look = field(default_factory=_Look)

    def flows(self, addresses: Collection[str]) -> Sequence[Flow]:
        """Those that begin or are answered at one of the addresses; none where this kernel tracks nothing."""
        with self._mutex:
            look = self._next
            first = not look.addresses
            look.addresses.update(map(socket.inet_aton, addresses))
        if first:
            self._lead(look)
        else:
            look.done.wait()
        if look.error is not None:
            raise look.error
        return [each for each in look.found if each.source in addresses or each.server in addresses]

    def forget(self, flows: Iterable[Flow]) -> None:
        """The next packet of each is looked at as if it were the first."""
        messages = [
            Message("forget a flow", (1 << 8) | _DELETE, 0, _HEAD + each.key, _GONE) for each in flows
        ]
        if messages:
            with told("cannot forget flows"), entered(self.host), Socket(_NETFILTER) as each:
                each.run(messages)

    def _lead(self, look: _Look) -> None:
        try:
            with self._looking:
                with self._mutex:
                    self._next = _Look()
                with told("cannot look at the flows"), entered(self.host):
                    look.found = _flows(look.addresses)
        except BaseException as error:
            look.error = error
        finally:
            look.done.set()


_HEAD = struct.pack("=BBH", socket.AF_INET, 0, 0)  # struct nfgenmsg
_GONE = (errno.ENOENT,)


def _flows(addresses: Collection[bytes]) -> list[Flow]:
    if not addresses or _count() == 0:
        return []
    try:
        with Socket(_NETFILTER) as each:
            answers = each.dump(Message("list flows", (1 << 8) | _GET, 0, _HEAD))
    except NetlinkError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return []  # a kernel without ctnetlink
        raise
    # The two tuples come first and have one form, so most flows need no reading: source, target and who answers.
    return [_flow(each) for each in answers if each[16:20] in addresses or each[68:72] in addresses]


def _flow(answer: bytes) -> Flow:
    found = attributes(answer, 4)
    original = found[_ORIGINAL]
    key = netlink.attribute(0x8000 | _ORIGINAL, original)
    if _ZONE in found:
        key += netlink.attribute(_ZONE, found[_ZONE])
    tcp = attributes(attributes(found.get(_PROTOINFO, b"")).get(1, b""))
    return Flow(
        protocol=attributes(attributes(original)[2])[1][0],
        state=tcp.get(1, b"\0")[0],
        source=socket.inet_ntoa(answer[16:20]),
        target=socket.inet_ntoa(answer[24:28]),
        server=socket.inet_ntoa(answer[68:72]),
        key=key,
    )


def _count() -> int:
    try:
        return int(get_sysctl("netfilter/nf_conntrack_count"))
    except (OSError, ValueError):
        return 0  # nothing is tracked here
