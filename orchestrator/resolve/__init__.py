"""Manifest to `Stack`: names looked up, defaults filled in, replicas counted out, needs drawn. Pure."""

from orchestrator.resolve.resolver import resolve, resolve_all

__all__ = ["resolve", "resolve_all"]
