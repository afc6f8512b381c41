"""The whole application over the fake driver: what the command line's tests talk to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.app import App, World, boot_clock
from orchestrator.drivers.fake import FakeDriver, drivers
from orchestrator.errors import StepError
from orchestrator.model.ids import Incarnation, Ref
from orchestrator.model.images import Pin, Wish
from orchestrator.model.observed import Health
from orchestrator.ports.driver import Attached, ExecRequest, Usage
from orchestrator.ports.images import Progress, Watch
from orchestrator.ports.layout import Layout

HASTE = 20.0


def hasty_clock() -> float:
    """Boot time that runs faster, so that nobody waits for a container to be steady."""
    return boot_clock() * HASTE


class FakeRuntime(FakeDriver):
    """The fake, with commands inside its containers: `ready` (a probe), `exit N`, `cat` and `say WORDS`.
    `signals`: what was sent; `folder`: the root of each; `used`: of which ref what."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.signals: list[tuple[Ref, int]] = []
        self.folder = "/nowhere"
        self.used: dict[Ref, Usage] = {}

    def exec(
        self, target: Incarnation, request: ExecRequest, stdio: tuple[int, int, int], timeout: float | None
    ) -> int:
        match request.command:
            case ("exit", code):
                return int(code)
            case ("ready",):
                self.set_health(target.ref, Health.HEALTHY)
            case ("cat",):
                while chunk := os.read(stdio[0], 65536):
                    os.write(stdio[1], chunk)
            case ("say", *words):
                os.write(stdio[1], " ".join(words).encode() + b"\n")
                os.write(stdio[2], b"said\n")
        return 0

    def attach(self, target: Incarnation, request: ExecRequest, *, rows: int, columns: int) -> Attached:
        raise StepError(f"{target.ref}: a fake has no terminal")

    def root(self, target: Incarnation) -> int:
        return os.open(self.folder, os.O_PATH | os.O_DIRECTORY)

    def usage(self, target: Incarnation) -> Usage | None:
        return self.used.get(target.ref) if self.thing(target.ref).pid else None

    def signal(self, target: Incarnation, number: int) -> bool:
        thing = self.thing(target.ref)
        if thing.pid is None:
            return False
        self.signals.append((target.ref, number))
        return True


@dataclass
class FakeImages:
    """`pins`: by the end of a wish's name; others are not there. `asked`, `fetched`, `renewed`: names, in order; `held`: by
    holder."""

    pins: dict[str, Pin] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    held: dict[str, list[str]] = field(default_factory=dict)
    broken: str | None = None

    def pin(self, wish: Wish) -> Pin:
        self.asked.append(wish.name)
        for end, pin in self.pins.items():
            if wish.name.partition("@")[0].endswith(end):
                digest = wish.name.partition("@")[2]
                return replace(pin, digest=digest) if digest else pin
        raise StepError(f"{wish.name}: not found", hint="look it up")

    def fetch(self, wish: Wish, pin: Pin, watch: Watch) -> Pin:
        if self.broken:
            raise StepError(self.broken)
        watch(Progress(wish=wish, stage="pull", done=1 << 20, total=2 << 20))
        watch(Progress(wish=wish, stage="ready"))
        self.fetched.append(wish.name)
        return pin

    def hold(self, holder: str, digests: Sequence[str]) -> None:
        self.held[holder] = list(digests)

    def renew(self, wish: Wish, watch: Watch) -> Pin:
        self.renewed.append(wish.name)
        return self.pin(wish)


@dataclass
class Stage:
    """One instance below `folder`; every App that it opens sees the same world."""

    folder: Path
    images: FakeImages = field(default_factory=FakeImages)
    fake: FakeRuntime = field(default_factory=lambda: FakeRuntime(hasty_clock))

    def open(self, root: str | None = None) -> App:
        world = World(drivers=drivers(self.fake), runtime=self.fake, images=self.images, at_once=1)
        return App(Layout.at(root or self.folder / "root"), lambda layout: world, hasty_clock)
