"""What one worker does: load, agree on the settings, prompts, then parts through the towers and into tables.

Begin at worker.py, then pipeline.py, which says what bounds its memory.
"""
