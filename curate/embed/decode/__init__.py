"""embed/decode."""
