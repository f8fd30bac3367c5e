"""Where work runs: on this machine's threads for now, the same functions on a cluster later."""
