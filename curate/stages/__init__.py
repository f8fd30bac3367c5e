"""One file per verb. A stage takes resolved settings, writes tables, and returns what it counted."""
