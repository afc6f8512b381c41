"""What of our networks and services is in effect now: the nftables table, the hub link, forwarding.

In: rules of one network or service, put or taken away; addresses that no service sends to for a while (they drain). Out:
the world made so. Threads that ask at once are served by one change of the table. What was loaded is kept in the run
folder under the boot's id; the kernel is asked whether it is still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.drivers.network import files, listing, netlink
from orchestrator.drivers.network.baseline import Baseline
from orchestrator.drivers.network.hub import Hub
from orchestrator.drivers.network.namespace import (
    entered,
    get_sysctl,
    set_sysctl,
    told,
)
from orchestrator.drivers.network.nft import Table, change, remove, whole
from orchestrator.drivers.network.rules import FAMILY_MARK, NetworkRules, Rules, ServiceRules, table
from orchestrator.errors import HostError, StepError
from orchestrator.model import codec
from orchestrator.ports.layout import Layout

_RECENT = 600.0  # seconds; nothing drains for longer
_GATHER = 0.002  # seconds; a change costs 4 to 20 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Addresses of an instance that is about to stop."""

    addresses: tuple[str, ...]


Put = NetworkRules | ServiceRules | Drain | None


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
    drains: Mapping[str, Drain] = field(default_factory=dict)

    def drained(self) -> frozenset[str]:
        """The addresses that services do not send to, whatever their rules say."""
        return frozenset(address for each in self.drains.values() for address in each.addresses)


class _Batch:
    """Changes that are loaded together, and how that ended."""

    def __init__(self) -> None:
        self.changes: dict[str, Put] = {}
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
        self.group = FAMILY_MARK | zlib.crc32(layout.table.encode()) & 0xFFFF
        self._hub = Hub(layout.instance, self.group)
        self._baseline = Baseline(self._folder / "listing.json", layout.table)
        self._mutex = threading.Lock()  # guards _next and _seen
        self._loading = threading.Lock()
        self._next = _Batch()
        self._crowded = False
        self._left: dict[str, float] = {}
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
            if not self._hub.is_up():
                found.append(f"link {self._hub.name}")
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
        with told("cannot look at the network"), entered(self._host):
            return self._hub.lost(networks)

    def mend(self) -> None:
        """Make all of it as it was; what is right stays as it is."""
        with self._loading, told("cannot mend the network"), self._locked(), entered(self._host):
            old = self.loaded()
            if old.networks or old.services:
                self._install(old, old, anew=True)

    def left(self, addresses: Sequence[str]) -> float:
        """When (time.monotonic()) the last of them left the rules of services, if this process saw it; else now."""
        now = time.monotonic()
        return max((self._left.get(each, now) for each in addresses), default=now)

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

    def put(self, id: str, rules: Put, *, ending: Sequence[str] = ()) -> None:
        """Bring one incarnation (or, under an id of its own, a drain) into effect, or (None) out of it; with it go the
        drains `ending`. Returns when the kernel has it.

        Raises StepError where the kernel or nft refuses, HostError without nft.
        """
        if rules is None:
            now = self.loaded()
            known = (now.networks, now.services, now.drains)
            if not any(id in each for each in known) and (now.networks or now.services):
                return  # it is out already, and is not the last whose going removes all
        with self._mutex:
            batch = self._next
            first = not batch.changes
            batch.changes |= {id: rules} | dict.fromkeys(ending)
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

    def _settle(self, changes: Mapping[str, Put]) -> None:
        with self._locked(), entered(self._host):
            old = self.loaded()
            networks, services, drains = dict(old.networks), dict(old.services), dict(old.drains)
            for id, rules in changes.items():
                for each in (networks, services, drains):
                    each.pop(id, None)
                match rules:
                    case NetworkRules():
                        networks[id] = rules
                    case ServiceRules():
                        services[id] = rules
                    case Drain():
                        drains[id] = rules
                    case None:
                        pass
            served = reached(services.values())
            drains = {id: each for id, each in drains.items() if not served.isdisjoint(each.addresses)}
            if networks or services:
                self._install(old, replace(old, networks=networks, services=services, drains=drains))
            else:
                self._dismantle(old)

    def _install(self, old: Loaded, new: Loaded, *, anew: bool = False) -> None:
        off = get_sysctl("ipv4/ip_forward") == "0"
        guard = old.guard if old.digest else off or self._hub.guarded()
        if not old.digest:
            # Before the first effect, so that a kill in between still finds what forwarding was.
            self._store(Loaded(guard=guard, digest="none"))
        new = replace(new, guard=guard, resolver=self._resolver())
        before, after = self._table_of(old), self._table_of(new)
        script = whole(after)
        digest = hashlib.sha256(script.encode()).hexdigest()
        self._hub.connect(old.networks, new.networks, guard=guard, anew=anew)
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
        now = time.monotonic()
        recent = {address: then for address, then in self._left.items() if now - then < _RECENT}
        self._left = recent | dict.fromkeys(_served(old) - _served(new), now)

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
                hub=self._hub.name,
                guard=loaded.guard,
                resolver=loaded.resolver,
                networks=tuple({each.subnet: each for _, each in sorted(loaded.networks.items())}.values()),
                services=_without(loaded.drained(), [each for _, each in sorted(loaded.services.items())]),
            )
        )

    def _dismantle(self, old: Loaded) -> None:
        if netlink.table_exists(self._table):
            _nft(remove(self._table))
        self._hub.remove()
        if old.guard and not self._hub.others():
            set_sysctl("ipv4/ip_forward", "0")
        self._baseline.forget()
        self._file.unlink(missing_ok=True)

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
                    drains={id: Drain(addresses=tuple(each)) for id, each in data.get("drains", {}).items()},
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
            "drains": {id: each.addresses for id, each in loaded.drains.items()},
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


def reached(services: Iterable[ServiceRules]) -> frozenset[str]:
    """The addresses that services send to."""
    found: set[str] = set()
    for each in services:
        found.update(
            *(virtual.backends for virtual in each.virtuals), *(port.backends for port in each.ports)
        )
    return frozenset(found)


def _served(loaded: Loaded) -> frozenset[str]:
    return reached(loaded.services.values()) - loaded.drained()


def _without(drained: frozenset[str], services: Sequence[ServiceRules]) -> tuple[ServiceRules, ...]:
    if not drained:
        return tuple(services)
    return tuple(
        ServiceRules(
            virtuals=tuple(replace(v, backends=_others(v.backends, drained)) for v in each.virtuals),
            ports=tuple(replace(port, backends=_others(port.backends, drained)) for port in each.ports),
        )
        for each in services
    )


def _others(backends: Sequence[str], drained: frozenset[str]) -> tuple[str, ...]:
    return tuple(each for each in backends if each not in drained)


def _mark(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


@lru_cache(maxsize=4096)
def _encoded(rules: NetworkRules | ServiceRules) -> Any:
    return codec.encode(rules)


def _nft(text: str) -> None:
    import subprocess

    try:
        done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise HostError("the command nft is missing", hint="apt install nftables") from error
    if done.returncode:
        first = next(iter(done.stderr.splitlines()), f"exit {done.returncode}")
        raise StepError(f"nft refused the rules: {first}", call="nft", argument="-f -")
