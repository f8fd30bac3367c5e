"""Where both halves meet, and nowhere else: names of all fields, what bytes are as a picture, what fails at a URL,
and what their command lines have alike.
"""
