"""compare/statistics."""
