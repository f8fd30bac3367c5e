"""Which ranked pairs are selected: the best, unless limits or diversity pass some over; and what of the prompts stays.

Begin at selection.py.
"""
