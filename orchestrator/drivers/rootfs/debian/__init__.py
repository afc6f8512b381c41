"""Roots made of Debian's packages by mmdebstrap(1)."""
