"""`curate sql`, `search` and `show`: questions to a run, as SQL, as a text that prompts should be like, or by an id.

It may use database, pages for pictures, rank's names and models, for a text to search by. Begin at query.py.
"""

from curate.ask.query import query
from curate.ask.search import search

__all__ = ["query", "search"]
