"""What of our networks and services is in effect now: the nftables table, the hub link, forwarding.

In: rules of one network or service, put or taken away. Out: the world made so. Threads that ask at once are served by
one change of the table. What was loaded is kept in the run folder under the boot's id; the kernel is asked whether it
is still there. The hub is a link without carrier that holds the gateway address, and so the route, of every network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from orchestrator.drivers.network import files, listing, look, netlink
from orchestrator.drivers.network.baseline import Baseline
from orchestrator.drivers.network.namespace import (
    entered,
    get_sysctl,
    link_exists,
    link_index,
    set_sysctl,
    told,
)
from orchestrator.drivers.network.nft import Table, change, remove, whole
from orchestrator.drivers.network.rules import FAMILY_MARK, NetworkRules, Rules, ServiceRules, table
from orchestrator.errors import HostError, StepError
from orchestrator.model import codec
from orchestrator.ports.layout import Layout

HUB = "orc-"  # prefix of every instance's hub; a group's link has no dash
_GATHER = 0.002  # seconds; a change costs 4 to 20 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is in effect, by incarnation. `guard`: forwarding was off before us. `digest`: of the script that makes the
    table. `generation`: of the ruleset right after our change; 0 where somebody else changed it at the same time."""

    guard: bool = False
    resolver: str | None = None
    digest: str = ""
    generation: int = 0
    networks: Mapping[str, NetworkRules] = field(default_factory=dict)
    services: Mapping[str, ServiceRules] = field(default_factory=dict)


class _Batch:
    """Changes that are loaded together, and how that ended."""

    def __init__(self) -> None:
        self.changes: dict[str, NetworkRules | ServiceRules | None] = {}
        self.done = threading.Event()
        self.error: BaseException | None = None


class Effect:
    """The state in the kernel of one instance, in the namespace `host` (a path; None: the process's own)."""

    def __init__(
        self, layout: Layout, host: str | None, boot_id: str, resolver: Callable[[], str | None]
    ) -> None:
        self._folder = layout.run / "network"
        self._file = self._folder / "effect.json"
        self._table = layout.table
        self._host = host
        self._boot_id = boot_id
        self._resolver = resolver
        self.hub = f"{HUB}{layout.instance}"
        self.group = FAMILY_MARK | zlib.crc32(layout.table.encode()) & 0xFFFF
        self._baseline = Baseline(self._folder / "listing.json", layout.table)
        self._mutex = threading.Lock()  # guards _next and _seen
        self._loading = threading.Lock()
        self._next = _Batch()
        self._crowded = False
        self._seen: tuple[tuple[int, int, int], Loaded] | None = None

    def ids(self) -> frozenset[str]:
        """The incarnations that were brought into effect in this boot; what became of that since is `damage`."""
        loaded = self.loaded()
        return frozenset((*loaded.networks, *loaded.services))

    def damage(self) -> tuple[str, ...]:
        """What somebody else changed of all that the networks share, in words."""
        loaded = self.loaded()
        if not loaded.networks and not loaded.services:
            return ()
        with told("cannot look at the network"), entered(self._host):
            found = [] if self._intact(loaded) else self._surely_damaged()
            self._baseline.learn(loaded.digest, loaded.generation)
            with netlink.Socket() as each:
                [link] = each.ask([look.link(self.hub)])
            if link is None or not look.link_of(link).up:
                found.append(f"link {self.hub}")
            if get_sysctl("ipv4/ip_forward") == "0":
                found.append("ip_forward")
        return tuple(found)

    def _intact(self, loaded: Loaded) -> bool:
        return self._baseline.intact(loaded.digest, loaded.generation)

    def _surely_damaged(self) -> list[str]:
        """The table, as nobody changes it meanwhile."""
        with self._locked():
            return [] if self._intact(self.loaded()) else [f"table {self._table}"]

    def lost(self, networks: Sequence[NetworkRules]) -> tuple[tuple[str, ...], ...]:
        """For each network what somebody else changed of its place on the hub, in words."""
        with told("cannot look at the network"), entered(self._host), netlink.Socket() as each:
            [link] = each.ask([look.link(self.hub)])
            if link is None:
                return tuple(() for _ in networks)  # that is damage of its own
            index = look.link_of(link).index
            answers = each.ask(
                [
                    question
                    for network in networks
                    for question in (look.way(network.gateway), look.way(network.subnet.partition("/")[0]))
                ]
            )
        found = []
        for network, gateway, subnet in zip(networks, answers[::2], answers[1::2], strict=True):
            wrong = [] if _leads(gateway, index, 32) else [f"address {network.gateway}"]
            if not _leads(subnet, index, IPv4Network(network.subnet).prefixlen):
                wrong.append(f"route to {network.subnet}")
            found.append(tuple(wrong))
        return tuple(found)

    def mend(self) -> None:
        """Make all of it as it was; what is right stays as it is."""
        with self._loading, told("cannot mend the network"), self._locked(), entered(self._host):
            old = self.loaded()
            if old.networks or old.services:
                self._install(old, old.networks, old.services, anew=True)

    def loaded(self) -> Loaded:
        """What this boot has loaded; costs a stat(2) while it is unchanged."""
        try:
            mark = _mark(self._file)
        except FileNotFoundError:
            return Loaded()
        with self._mutex:
            seen = self._seen
        if seen is None or seen[0] != mark:
            seen = (mark, self._read())
            with self._mutex:
                self._seen = seen
        return seen[1]

    def put(self, id: str, rules: NetworkRules | ServiceRules | None) -> None:
        """Bring one incarnation into effect, or (None) out of it; returns when the kernel has it.

        Raises StepError where the kernel or nft refuses, HostError without nft.
        """
        if rules is None:
            now = self.loaded()
            if id not in now.networks and id not in now.services and (now.networks or now.services):
                return  # it is out already, and is not the last whose going removes all
        with self._mutex:
            batch = self._next
            first = not batch.changes
            batch.changes[id] = rules
        if first:
            self._lead(batch)
        else:
            batch.done.wait()
        if batch.error is not None:
            raise batch.error

    def _lead(self, batch: _Batch) -> None:
        """Load a batch on behalf of all who joined it while the one before was loaded."""
        try:
            with self._loading:
                if self._crowded:
                    time.sleep(_GATHER)  # those whom the last change let go are about to come with their next
                with self._mutex:
                    self._next = _Batch()
                self._crowded = len(batch.changes) > 1
                with told("cannot change the network"):
                    self._settle(batch.changes)
        except BaseException as error:
            batch.error = error
        finally:
            with self._mutex:
                if self._next is batch:
                    self._next = _Batch()
            batch.done.set()

    def _settle(self, changes: Mapping[str, NetworkRules | ServiceRules | None]) -> None:
        with self._locked(), entered(self._host):
            old = self.loaded()
            networks, services = dict(old.networks), dict(old.services)
            for id, rules in changes.items():
                networks.pop(id, None)
                services.pop(id, None)
                if isinstance(rules, NetworkRules):
                    networks[id] = rules
                elif rules is not None:
                    services[id] = rules
            if networks or services:
                self._install(old, networks, services)
            else:
                self._dismantle(old)

    def _install(
        self,
        old: Loaded,
        networks: Mapping[str, NetworkRules],
        services: Mapping[str, ServiceRules],
        *,
        anew: bool = False,
    ) -> None:
        off = get_sysctl("ipv4/ip_forward") == "0"
        guard = (
            old.guard if old.digest else off or any(_tagged(hub) for hub in (self.hub, *self._other_hubs()))
        )
        if not old.digest:
            # Before the first effect, so that a kill in between still finds what forwarding was.
            self._store(Loaded(guard=guard, digest="none"))
        new = Loaded(guard=guard, resolver=self._resolver(), networks=networks, services=services)
        before, after = self._table_of(old), self._table_of(new)
        script = whole(after)
        digest = hashlib.sha256(script.encode()).hexdigest()
        self._connect(old.networks, networks, guard, anew=anew)
        there = self._intact(old)
        generation = listing.generation()
        if not there or old.digest != hashlib.sha256(whole(before).encode()).hexdigest():
            _nft(script)
        elif digest != old.digest:
            self._change(change(before, after), script)
        else:
            generation -= 1
        if off:
            set_sysctl("ipv4/ip_forward", "1")
        alone = listing.generation() == generation + 1
        self._store(replace(new, digest=digest, generation=generation + 1 if alone else 0))

    def _change(self, step: str | None, script: str) -> None:
        """By the short `step` where there is one and the table is still as we left it, else as a whole."""
        if step is not None:
            with contextlib.suppress(StepError):
                return _nft(step)
        return _nft(script)

    def _table_of(self, loaded: Loaded) -> Table:
        return table(
            Rules(
                table=self._table,
                group=self.group,
                hub=self.hub,
                guard=loaded.guard,
                resolver=loaded.resolver,
                networks=tuple({each.subnet: each for _, each in sorted(loaded.networks.items())}.values()),
                services=tuple(each for _, each in sorted(loaded.services.items())),
            )
        )

    def _connect(
        self, old: Mapping[str, NetworkRules], new: Mapping[str, NetworkRules], guard: bool, *, anew: bool
    ) -> None:
        """The hub holds exactly the gateways of `new`; its tag tells other instances of `guard`. The kernel makes the
        subnet's route with the address, and not again where somebody took the route alone."""
        before = {each.gateway: each for each in old.values()}
        after = {each.gateway: each for each in new.values()}
        if before == after and not anew and link_exists(self.hub):
            return
        with netlink.Socket() as each:
            index = link_index(self.hub)
            if index is None:
                mac = bytes((0x02, 0, *self.group.to_bytes(4, "big")))
                each.run([netlink.veth(self.hub, mac, self.group, f"{self.hub}-x")])
                set_sysctl(f"ipv6/conf/{self.hub}/disable_ipv6", "1")
                set_sysctl(f"ipv4/conf/{self.hub}/tag", str(int(guard)))
                index = link_index(self.hub) or 0
            each.run(
                [
                    *(
                        netlink.remove_address(*_place(net), index)
                        for gw, net in before.items()
                        if gw not in after
                    ),
                    netlink.up(index),
                    *(netlink.address(*_place(net), index) for net in after.values()),
                    *(_route(net, index) for net in after.values() if anew),
                ]
            )

    def _dismantle(self, old: Loaded) -> None:
        if netlink.table_exists(self._table):
            _nft(remove(self._table))
        if link_exists(self.hub):
            with netlink.Socket() as each:
                each.run([netlink.remove_link(self.hub)])
        if old.guard and not self._other_hubs():
            set_sysctl("ipv4/ip_forward", "0")
        self._baseline.forget()
        self._file.unlink(missing_ok=True)

    def _other_hubs(self) -> list[str]:
        names = os.listdir("/proc/sys/net/ipv4/conf")  # noqa: PTH208
        ours = (self.hub, f"{self.hub}-x")
        return [each for each in names if each.startswith(HUB) and each not in ours]

    def _read(self) -> Loaded:
        try:
            data = json.loads(self._file.read_text())
            if data["boot"] == self._boot_id:
                return Loaded(
                    guard=data["guard"],
                    resolver=data["resolver"],
                    digest=data["digest"],
                    generation=data.get("generation", 0),
                    networks={id: codec.decode(NetworkRules, each) for id, each in data["networks"].items()},
                    services={id: codec.decode(ServiceRules, each) for id, each in data["services"].items()},
                )
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            pass  # nothing is known to be in effect: all is loaded again
        return Loaded()

    def _store(self, loaded: Loaded) -> None:
        data = {
            "boot": self._boot_id,
            "guard": loaded.guard,
            "resolver": loaded.resolver,
            "digest": loaded.digest,
            "generation": loaded.generation,
            "networks": {id: _encoded(each) for id, each in loaded.networks.items()},
            "services": {id: _encoded(each) for id, each in loaded.services.items()},
        }
        files.replace(self._file, json.dumps(data, separators=(",", ":")))
        mark = _mark(self._file)  # nobody else writes it: the lock is held
        with self._mutex:
            self._seen = (mark, loaded)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(Path(self._folder, ".lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _tagged(hub: str) -> bool:
    """Whether forwarding was off before the instance with this hub, so that it is on because of us alone."""
    try:
        return get_sysctl(f"ipv4/conf/{hub}/tag") == "1"
    except FileNotFoundError:
        return False  # no such hub (any more)


def _mark(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


@lru_cache(maxsize=4096)
def _encoded(rules: NetworkRules | ServiceRules) -> Any:
    return codec.encode(rules)


def _place(network: NetworkRules) -> tuple[str, int]:
    return network.gateway, IPv4Network(network.subnet).prefixlen


def _route(network: NetworkRules, index: int) -> netlink.Message:
    base, _, prefix = network.subnet.partition("/")
    return netlink.route(base, int(prefix), index, source=network.gateway)


def _leads(answer: bytes | None, index: int, prefix: int) -> bool:
    """Whether the route that was found is of this prefix length and goes out of this link."""
    route = look.route_of(answer) if answer is not None else None
    return route is not None and (route.index, route.prefix) == (index, prefix)


def _nft(text: str) -> None:
    import subprocess

    try:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostError("the command nft is missing", hint="apt install nftables") from error
    if done.returncode:
        first = next(iter(done.stderr.splitlines()), f"exit {done.returncode}")
        raise StepError(f"nft refused the rules: {first}", call="nft", argument="-f -")
