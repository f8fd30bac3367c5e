"""`curate sql` and `search`: questions to a run, as SQL or as a text that prompts should be like.

It reads what embed and rank wrote, through database. Begin at query.py.
"""

from curate.ask.query import query
from curate.ask.search import search

__all__ = ["query", "search"]
