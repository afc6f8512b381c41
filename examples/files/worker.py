"""Uses a little of everything for the examples: says now and then how much memory and how many files it may have."""

import resource
import signal
import sys
import time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"worker: at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files", flush=True)
while True:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"worker: {used} MiB used", flush=True)
    time.sleep(30)
