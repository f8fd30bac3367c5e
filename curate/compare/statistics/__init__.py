"""Win rates, sign tests, bootstrap intervals over prompts, Bradley-Terry strengths, diversity: numbers in, numbers out.

Nothing here reads a file. Begin at win_rates.py.
"""
