"""Sets that are no Parquet of pairs: their files as one table, a manifest's query over it, and pictures by address.

Begin at prepare.py.
"""
