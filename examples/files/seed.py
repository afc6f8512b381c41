"""Puts one key into the store of the quickstart, and ends: seed.py KEY VALUE."""

import sys
import urllib.request

key, value = sys.argv[1:]
request = urllib.request.Request(f"http://store:6000/{key}", data=value.encode(), method="PUT")
with urllib.request.urlopen(request, timeout=10) as answer:
    print(f"{key}: {answer.read().decode().strip()}", flush=True)
