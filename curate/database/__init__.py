"""DuckDB over a run: views of its tables, the queries of the wings, what a user's SQL may do, Ctrl-C.

It may use storage. Begin at connection.py; queries.py finds and fills the SQL files.
"""
