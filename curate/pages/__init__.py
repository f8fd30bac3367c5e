"""The pages of report, browse, compare and review: template, colours, pictures, and the server on this machine.

It may use database, sources, storage, terminal and what lies below them, and knows no verb. Begin with template.py;
server.py answers a browser, pictures.py reads images back from a run.
"""
