"""Prints the greeting, and again whenever SIGHUP says that it has changed."""

import signal
from pathlib import Path


def greet(*_: object) -> None:
    token = Path("/run/secrets/token").read_text().strip()
    print(Path("/etc/greeting").read_text().strip(), f"(the token has {len(token)} characters)")


signal.signal(signal.SIGHUP, greet)
greet()
while True:
    signal.pause()
