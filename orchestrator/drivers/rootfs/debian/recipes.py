"""Recipes in the store. Not built yet."""

from __future__ import annotations

from orchestrator.drivers.rootfs.store import ContentStore
from orchestrator.errors import StepError
from orchestrator.model.images import Pin, Recipe
from orchestrator.ports.images import Watch


class Recipes:
    def __init__(self, store: ContentStore) -> None:
        self._store = store

    def pin(self, wish: Recipe) -> Pin:
        raise StepError("recipes are not supported yet")

    def fetch(self, wish: Recipe, pin: Pin, watch: Watch) -> Pin:
        raise StepError("recipes are not supported yet")
