"""Non-dominated fronts of pairs over the margins of all scorers."""

import duckdb
import numpy as np
import pyarrow as pa

from curate.database.queries import query_text


def create_fronts(connection: duckdb.DuckDBPyConnection, scorers: list[str]) -> None:
    """The table `fronts` (pair_id, front): 1 for pairs that no pair beats or equals by every margin and beats by one.

    Front k + 1 is what is not dominated once fronts 1 to k are taken away. Pairs without all margins have no front.
    """
    import moocore

    table = connection.sql(query_text("rank/complete_margins", scorer=scorers)).to_arrow_table()
    margins = np.column_stack([table[f"{scorer}_margin"].to_numpy() for scorer in scorers])
    ranks = moocore.pareto_rank(-margins) if len(margins) else np.empty(0, np.int64)  # it minimises
    least = int(ranks.min(initial=1))
    fronts = pa.table({"pair_id": table["pair_id"], "front": pa.array(ranks - least + 1, pa.int64())})
    connection.register("found_fronts", fronts)
    connection.execute("create temp table fronts as from found_fronts")
    connection.unregister("found_fronts")
