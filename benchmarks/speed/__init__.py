"""Timed scripts: ours beside a peer or a physical limit, a table and one JSON line each (`make bench`)."""
