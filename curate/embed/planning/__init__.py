"""embed/planning."""
