"""`curate sql` and `search`: questions to a run, as SQL or as a text that prompts should be like.

It may use database, rank's names and models, for a text to search by. Begin at query.py.
"""

from curate.ask.query import query
from curate.ask.search import search

__all__ = ["query", "search"]
