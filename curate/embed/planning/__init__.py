"""From the source's keys alone: which pairs stand and why others do not, and the unique images cut into parts.

No image byte is read here, and nothing here loads torch. Begin at plan.py.
"""
