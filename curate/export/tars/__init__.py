"""export/tars."""
