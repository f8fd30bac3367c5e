"""Where both halves meet, and nowhere else: the names of all fields, and what encoded bytes are as a picture."""
