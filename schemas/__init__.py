"""The only home of table and shard field names; both halves import from here and nowhere else meet."""
