"""The curation half: score a preference data set once, rank its pairs by a SQL metric, pack the top as shards."""
