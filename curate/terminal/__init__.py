"""What every command does on a terminal: progress and messages on stderr, numbers and JSON as text.

Begin at text.py.
"""
