"""The curation half: score a preference data set once, rank its pairs by a SQL metric, pack the top as shards.

A folder is a verb of the command line, with all that only this verb needs, or a ground that several verbs stand on.
The verbs: embed, rank, export, report, compare, review, ask, score. The grounds, from high to low: models, pages,
database, sources, storage, terminal. Imports run down only; tests/test_imports.py has the table. Begin at cli.py, the
commands.
"""
