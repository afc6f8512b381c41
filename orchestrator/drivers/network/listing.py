"""What nftables holds, asked of nfnetlink directly: the ruleset's generation and a digest of one table.

In: a table's name (family ip), in the network namespace of the calling thread. Out: a number that every change of any table
raises, a digest that tells whether this one table is as it was. 5 µs and 0.7 ms (32 ms with 1,000 services).
"""

from __future__ import annotations

import hashlib
import socket
import struct
from collections.abc import Iterator

from orchestrator.drivers.network import netlink
from orchestrator.drivers.network.look import attributes, each_attribute
from orchestrator.drivers.network.netlink import Message, Socket

_NETFILTER = 12
_GETCHAIN, _GETRULE, _GETSET, _GETSETELEM, _GETGEN = 4, 7, 10, 13, 16  # NFT_MSG_*


def generation() -> int:
    """NFT_MSG_GETGEN: how often the ruleset of this namespace was changed, modulo 2^32; never 0."""
    with Socket(_NETFILTER) as each:
        [answer] = each.ask([_message("ask for the generation", _GETGEN)])
    assert answer is not None
    found: int = struct.unpack(">I", attributes(answer, 4)[1])[0]
    return found


def digest(table: str) -> str:
    """Of chains, rules, sets and elements with their handles; '' where there is no such table.

    The answers' own heads are left out (they hold the generation), and elements are sorted: their order is the hash's.
    """
    found = hashlib.sha256()
    name = netlink.text(1, table)
    with Socket(_NETFILTER) as each:
        chains = [
            answer
            for answer in each.dump(_message("list chains", _GETCHAIN))
            if attributes(answer, 4).get(1) == table.encode() + b"\0"
        ]
        if not chains:
            return ""
        sets = each.dump(_message("list sets", _GETSET, name))
        rules = each.dump(_message("list rules", _GETRULE, name))
        for answer in (*chains, *rules, *sets):
            found.update(answer[4:])
        for answer in sets:
            raw = attributes(answer, 4)[2]
            found.update(b"".join(sorted(_elements(each, name, raw))))
    return found.hexdigest()


def _elements(each: Socket, table: bytes, name: bytes) -> Iterator[bytes]:
    question = _message("list elements", _GETSETELEM, table + netlink.attribute(2, name))
    for answer in each.dump(question):
        for kind, value in each_attribute(answer, 4):
            if kind == 3:  # NFTA_SET_ELEM_LIST_ELEMENTS
                yield from (element for _, element in each_attribute(value))


def _message(what: str, kind: int, more: bytes = b"") -> Message:
    # NFNL_SUBSYS_NFTABLES
    return Message(what, (10 << 8) | kind, 0, struct.pack("=BBH", socket.AF_INET, 0, 0) + more)
