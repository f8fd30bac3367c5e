"""embed/device."""
