"""Images in the store. Not built yet."""

from __future__ import annotations

from orchestrator.drivers.rootfs.store import ContentStore
from orchestrator.errors import StepError
from orchestrator.model.images import ImageWish, Pin
from orchestrator.ports.images import Watch


class OciImages:
    def __init__(self, store: ContentStore) -> None:
        self._store = store

    def pin(self, wish: ImageWish) -> Pin:
        raise StepError("images are not supported yet")

    def fetch(self, wish: ImageWish, pin: Pin, watch: Watch) -> Pin:
        raise StepError("images are not supported yet")
