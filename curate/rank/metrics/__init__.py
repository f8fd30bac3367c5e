"""rank/metrics."""
