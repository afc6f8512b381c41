"""A declarative container orchestrator for Linux: YAML stacks in, real containers out."""

__version__ = "0.1.0"
