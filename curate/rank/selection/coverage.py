"""What of a source's prompts a selection keeps: prompts, groups of near-duplicates, topics."""

from typing import Any

import duckdb
import numpy as np

from curate.database.connection import fetch
from curate.database.queries import query_text
from curate.rank.selection.selection import Prompts

TOPICS = 100
SEED = 0


def prompt_coverage(connection: duckdb.DuckDBPyConnection, ranking: str) -> dict[str, Any]:
    """Prompts of a ranking's view, or `parquet_rows` of it: all, and those with a selected pair."""
    prompts, selected = fetch(connection, query_text("rank/coverage", ranking=[ranking]))[0]
    return {"prompts": prompts, "selected_prompts": selected}


def topic_coverage(prompts: Prompts, selected: set[str]) -> dict[str, Any]:
    """How many topics have a selected pair, and how evenly the selected prompts spread over them.

    A topic is a cluster of prompt embeddings: k-means (MacQueen 1967) with k = TOPICS, or a tenth of the prompts
    where there are few, seeded. effective_topics is exp of the entropy of the selected prompts' topics.
    """
    topic = topics_of(prompts.embeddings)
    kept = topic[np.fromiter((prompt_id in selected for prompt_id in prompts.ids), bool, len(prompts.ids))]
    shares = np.bincount(kept) / max(len(kept), 1)
    shares = shares[shares > 0]
    return {
        "topics": int(topic.max(initial=-1)) + 1,
        "selected_topics": len(shares),
        "effective_topics": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def topics_of(embeddings: np.ndarray) -> np.ndarray:
    """(n,) topic of each prompt, numbered without gaps. embeddings: (n, dimension)."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(TOPICS, max(1, len(embeddings) // 10))
    model = MiniBatchKMeans(count, random_state=SEED, n_init=1, batch_size=4096)
    return np.unique(model.fit_predict(embeddings), return_inverse=True)[1]
