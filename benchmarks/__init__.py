"""How fast and how heavy the orchestrator is, measured on this machine beside the limit that the kernel sets."""
