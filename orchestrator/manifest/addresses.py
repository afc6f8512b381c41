"""Readers of ports, addresses and subnets, beside the other scalar forms.

In: what YAML gave. Out: plain values; raises `Unreadable`. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from orchestrator.manifest.codes import Code
from orchestrator.manifest.scalars import Unreadable, describe, text, unfit


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForm:
    """Published ports as written: `count` ports from `host` on `address` reach those from `target` on."""

    address: str = "127.0.0.1"
    host: int
    target: int
    count: int = 1
    protocol: str = "tcp"


PORT_FORMS = '"8080:80", "127.0.0.1:8080:80/udp" or a range "8000-8010:80-90"'
_PORTS = re.compile(r"(?:(.*):)?([0-9]+)(?:-([0-9]+))?:([0-9]+)(?:-([0-9]+))?(?:/([a-z]+))?")


def ports(value: Any) -> PortForm:
    """A published port or range in its short form."""
    if isinstance(value, int) and not isinstance(value, bool):
        unfit(value, f"published ports such as {PORT_FORMS}", f'write both sides: "{value}:{value}"')
    found = _PORTS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        one_sided = isinstance(value, str) and re.fullmatch(r"[0-9]+(/[a-z]+)?", value)
        hint = f'write both sides: "{value.partition("/")[0]}:{value}"' if one_sided else None
        unfit(value, f"published ports such as {PORT_FORMS}", hint)
    host, target = _range(found[2], found[3]), _range(found[4], found[5])
    if len(host) != len(target):
        raise Unreadable(
            f"expects ranges of equal length, found {len(host)} and {len(target)} ports",
            hint=f'did you mean "{host[0]}-{host[0] + len(target) - 1}:{target[0]}-{target[-1]}"?'
            if len(target) > 1
            else None,
        )
    return PortForm(
        address=address(found[1]) if found[1] is not None else "127.0.0.1",
        host=host[0],
        target=target[0],
        count=len(host),
        protocol=protocol(found[6] or "tcp"),
    )


def _range(first: str, last: str | None) -> range:
    low, high = int(first[:6]), int((last or first)[:6])
    if not 1 <= low <= high <= 65535:
        raise Unreadable(
            f"expects ports from 1 to 65535, lowest first, found {first}{'-' + last if last else ''}"
        )
    return range(low, high + 1)


def port_range(value: Any) -> range:
    """One port (a number) or a range (`8000-8010`)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _range(str(value), None) if value > 0 else unfit(value, "a port from 1 to 65535")
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", value) if isinstance(value, str) else None
    return (
        _range(found[1], found[2])
        if found
        else unfit(value, 'a port such as 8080 or a range such as "8000-8010"')
    )


def port(value: Any) -> int:
    """One port."""
    found = port_range(value)
    return found[0] if len(found) == 1 else unfit(value, "one port, not a range")


def protocol(value: Any) -> str:
    """tcp or udp."""
    return str(value) if value in ("tcp", "udp") else unfit(value, "tcp or udp")


def address(value: Any) -> str:
    """An IPv4 address."""
    if isinstance(value, str) and value.count(":") > 1:
        raise Unreadable(
            f"IPv6 addresses are not supported yet, found {describe(value)}",
            hint="use IPv4",
            code=Code.NOT_YET,
        )
    try:
        return str(ipaddress.IPv4Address(text(value)))
    except ipaddress.AddressValueError:
        hint = (
            "write 127.0.0.1"
            if value == "localhost"
            else "0.0.0.0 is every address of this host"
            if value == "*"
            else None
        )
        unfit(value, "an IPv4 address such as 192.0.2.1", hint)


def subnet(value: Any) -> str:
    """An IPv4 network in its plain form."""
    if isinstance(value, str) and ":" in value:
        raise Unreadable(
            f"IPv6 subnets are not supported yet, found {describe(value)}", hint="use IPv4", code=Code.NOT_YET
        )
    wanted = "an IPv4 subnet such as 10.86.7.0/24"
    try:
        found = ipaddress.IPv4Interface(
            value if isinstance(value, str) and "/" in value else unfit(value, wanted)
        )
    except (ipaddress.AddressValueError, ipaddress.NetmaskValueError):
        unfit(value, wanted)
    if found.ip != found.network.network_address:
        raise Unreadable(
            f"the subnet {value} has host bits set", hint=f"did you mean {found.network}?", code=Code.SUBNET
        )
    return str(found.network)
