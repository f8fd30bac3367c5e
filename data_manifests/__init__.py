"""Data, never code: this file only makes the folder a package, so that an installed pairsieve carries it."""
