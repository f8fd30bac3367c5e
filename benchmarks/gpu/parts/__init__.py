"""What each part of `make gpu` does: a function that takes a Bench and yields rows, the most telling first."""
