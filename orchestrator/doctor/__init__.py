"""What this host can and cannot do: facts are looked up in `looking`, judged by pure functions in `judging`."""
