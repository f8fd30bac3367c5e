"""rank/selection."""
