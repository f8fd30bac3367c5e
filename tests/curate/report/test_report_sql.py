"""The report's queries against rows written by hand."""

from typing import Any

import duckdb
import pytest

from curate.database.connection import query_rows
from curate.database.queries import query_text

SCORERS = ["clip", "pick"]
# rank, prompt, quality, selected, clip preferred and rejected, pick preferred and rejected
RANKED = [
    (1, "p", 0.9, True, 4.0, 1.0, 10.0, 30.0),
    (2, "p", 0.8, True, 3.0, 2.0, 20.0, 20.0),
    (3, "q", 0.4, False, 2.0, 2.0, 30.0, 10.0),
    (4, "q", 0.0, False, 1.0, 4.0, None, 10.0),
]


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(
        "create table report_ranking (rank bigint, prompt_id varchar, quality double, selected boolean, "
        "clip_preferred float, clip_rejected float, pick_preferred float, pick_rejected float, pair_id varchar, "
        "preferred_uid varchar, rejected_uid varchar, percentile double, passed_over varchar, "
        "clip_margin float, pick_margin float)"
    )
    for row in RANKED:
        values = [*row, f"pair-{row[0]}", f"w{row[0]}", f"l{row[0]}", 1 - (row[0] - 1) / 3, None]
        margins = [row[4] - row[5], None if row[6] is None else row[6] - row[7]]
        connection.execute(f"insert into report_ranking values ({', '.join('?' * 15)})", [*values, *margins])
    connection.execute("create table prompts as select * from (values ('p', 'A red Circle', [1.0, 0.0]), "
                       "('q', '100%', [0.0, 1.0])) as t (prompt_id, prompt, clip_embedding)")  # fmt: skip
    connection.execute("create table ranked_psi as select rank, 1.0 as psi_preferred, 0.5 as psi_rejected "
                       "from report_ranking")  # fmt: skip
    connection.execute("create table where_result as select pair_id, rank % 2 = 0 as kept from report_ranking")
    return connection


def test_scorers(connection: duckdb.DuckDBPyConnection) -> None:
    clip, pick = query_rows(connection, query_text("report/scorers", scorer=SCORERS))
    assert (clip["scorer"], clip["mean_preferred"], clip["mean_rejected"]) == ("clip", 2.5, 2.25)
    assert (clip["agreement"], clip["selected_agreement"]) == (2.5 / 4, 1.0)
    assert (pick["agreement"], pick["selected_agreement"]) == (0.5, 0.25)  # the pair without a margin has no say


def test_histograms_hold_every_value_once(connection: duckdb.DuckDBPyConnection) -> None:
    rows = query_rows(connection, query_text("report/histograms", scorer=SCORERS), bins=4)

    def bins(*key: str) -> list[tuple[float, float, int, int]]:
        return [(row["low"], row["high"], row["pairs"], row["selected_pairs"]) for row in rows
                if (row["quantity"], row["scorer"], row["side"]) == key]  # fmt: skip

    assert bins("quality", "", "") == [
        (0.0, 0.225, 1, 0), (0.225, 0.45, 1, 0), (0.45, pytest.approx(0.675), 0, 0), (pytest.approx(0.675), 0.9, 2, 2)
    ]  # fmt: skip
    assert [item[2:] for item in bins("score", "clip", "preferred")] == [(1, 0), (1, 0), (1, 1), (1, 1)]
    assert [item[2:] for item in bins("score", "clip", "rejected")] == [(1, 1), (2, 1), (0, 0), (1, 0)]
    assert sum(item[2] for item in bins("score", "pick", "preferred")) == 3
    assert bins("margin", "clip", "")[0] == (-3.0, -1.5, 1, 0)


def test_a_constant_quantity_has_its_values_in_the_first_bin(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("update report_ranking set quality = 0.5")
    rows = query_rows(connection, query_text("report/histograms", scorer=SCORERS), bins=3)
    assert [row["pairs"] for row in rows if row["quantity"] == "quality"] == [4, 0, 0]


def test_agreement_along_the_ranking(connection: duckdb.DuckDBPyConnection) -> None:
    rows = query_rows(connection, query_text("report/agreement", scorer=SCORERS), bins=2)
    found = [(row["scorer"], row["low"], row["high"], row["pairs"], row["selected_pairs"], row["agreement"])
             for row in rows]  # fmt: skip
    assert found == [
        ("clip", 0.0, 0.5, 2, 0, 0.25),
        ("pick", 0.0, 0.5, 2, 0, 1.0),
        ("clip", 0.5, 1.0, 2, 2, 1.0),
        ("pick", 0.5, 1.0, 2, 2, 0.25),
    ]


def test_more_slices_than_pairs_leave_some_out(connection: duckdb.DuckDBPyConnection) -> None:
    rows = query_rows(connection, query_text("report/agreement", scorer=["clip"]), bins=20)
    assert [row["pairs"] for row in rows] == [1, 1, 1, 1]
    assert [row["agreement"] for row in rows] == [0.0, 0.5, 1.0, 1.0]


def test_correlations(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("update report_ranking set pick_preferred = 2 * clip_preferred, pick_rejected = "
                       "2 * clip_rejected, pick_margin = -clip_margin")  # fmt: skip
    rows = query_rows(connection, query_text("report/correlations", scorer=SCORERS))
    found = {(row["quantity"], row["scorer"], row["other"]): row["correlation"] for row in rows}
    assert len(found) == len(rows) == 8
    assert found["margin", "clip", "clip"] == pytest.approx(1)
    assert found["margin", "clip", "pick"] == found["margin", "pick", "clip"] == pytest.approx(-1)
    assert found["score", "clip", "pick"] == pytest.approx(1)


def test_the_correlation_with_a_constant_is_unknown(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("update report_ranking set pick_margin = 1")
    rows = query_rows(connection, query_text("report/correlations", scorer=SCORERS))
    found = {(row["quantity"], row["scorer"], row["other"]): row["correlation"] for row in rows}
    assert found["margin", "clip", "pick"] is None
    assert found["margin", "clip", "clip"] == pytest.approx(1)


def test_prompts_of_the_map(connection: duckdb.DuckDBPyConnection) -> None:
    rows = query_rows(connection, query_text("report/prompts", tower=["clip"]), most=1)
    assert rows == [
        {"prompt_id": "p", "prompt": "A red Circle", "pairs": 2, "selected_pairs": 2, "of_kind": 1,
         "embedding": [1.0, 0.0]},
        {"prompt_id": "q", "prompt": "100%", "pairs": 2, "selected_pairs": 0, "of_kind": 1, "embedding": [0.0, 1.0]},
    ]  # fmt: skip
    connection.execute("update report_ranking set prompt_id = rank::varchar, selected = true")
    connection.execute("insert into prompts select rank::varchar, '', [1.0, 0.0] from report_ranking")
    rows = query_rows(connection, query_text("report/prompts", tower=["clip"]), most=3)
    assert [row["of_kind"] for row in rows] == [4, 4, 4]


def gallery(connection: duckdb.DuckDBPyConnection, **changes: Any) -> list[int]:
    params = {"filter": "", "asked": False, "order": "best", "cut": 2, "limit": 10, "offset": 0} | changes
    return [row["rank"] for row in query_rows(connection, query_text("report/gallery", scorer=SCORERS), **params)]


@pytest.mark.parametrize(
    ("changes", "ranks"),
    [
        ({}, [1, 2, 3, 4]),
        ({"order": "worst"}, [4, 3, 2, 1]),
        ({"order": "cut"}, [2, 3, 1, 4]),
        ({"order": "clip_disputed"}, [4, 3, 2, 1]),
        ({"order": "pick_agreed"}, [3, 2, 1, 4]),  # without a margin last
        ({"offset": 1, "limit": 2}, [2, 3]),
        ({"offset": 9}, []),
        ({"filter": "red CIRCLE"}, [1, 2]),
        ({"filter": "%"}, [3, 4]),
        ({"filter": "_"}, []),
        ({"filter": "'; drop table prompts"}, []),
        ({"filter": "pair-3"}, [3]),
        ({"asked": True}, [2, 4]),
        ({"asked": True, "filter": "red"}, [2]),
    ],
)
def test_gallery(connection: duckdb.DuckDBPyConnection, changes: dict[str, Any], ranks: list[int]) -> None:
    assert gallery(connection, **changes) == ranks
    fit = {"filter": changes.get("filter", ""), "asked": changes.get("asked", False)}
    counted = query_rows(connection, query_text("report/gallery_count"), **fit)
    if "offset" not in changes:
        assert counted == [{"pairs": len(ranks)}]


def test_a_gallery_row_says_everything(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("delete from prompts where prompt_id = 'q'")
    rows = query_rows(
        connection, query_text("report/gallery", scorer=SCORERS),
        filter="", asked=False, order="best", cut=2, limit=4, offset=0,
    )  # fmt: skip
    assert rows[0] == {
        "pair_id": "pair-1", "prompt": "A red Circle", "preferred_uid": "w1", "rejected_uid": "l1", "quality": 0.9,
        "rank": 1, "percentile": 1.0, "selected": True, "passed_over": None, "psi_preferred": 1.0,
        "psi_rejected": 0.5, "clip_preferred": 4.0, "clip_rejected": 1.0, "clip_margin": 3.0, "pick_preferred": 10.0,
        "pick_rejected": 30.0, "pick_margin": -20.0,
    }  # fmt: skip
    assert (rows[3]["prompt"], rows[3]["pick_margin"]) == (None, None)


def test_what_a_condition_may_ask_of_a_ranked_pair() -> None:
    """The ranking's own column wins where the source keeps one of its name."""
    connection = duckdb.connect()
    connection.execute("create table report_ranking as select 1 as rank, 'a' as pair_id, 0.5 as quality, "
                       "1.0 as percentile, true as selected, null::varchar as passed_over")  # fmt: skip
    connection.execute("create table pair_facts as select * from (values ('a', 0.1, 'his'), ('b', 0.2, 'his')) "
                       "as t (pair_id, clip_margin, quality)")  # fmt: skip
    connection.execute(f"create view ranked_facts as {query_text('report/ranked_facts')}")
    (found,) = query_rows(connection, "select pair_id, rank, quality, selected, clip_margin from ranked_facts")
    assert (found["pair_id"], found["rank"], found["selected"]) == ("a", 1, True)
    assert (float(found["quality"]), float(found["clip_margin"])) == (0.5, 0.1)


def test_psi_by_rank() -> None:
    connection = duckdb.connect()
    connection.execute("create table report_ranking as select * from (values (2, 'a'), (1, 'b')) as t (rank, pair_id)")
    connection.execute("create table pair_scores as select * from (values ('a', 0.1, 0.2), ('b', 0.3, 0.4), "
                       "('c', 0, 0)) as t (pair_id, psi_preferred, psi_rejected)")  # fmt: skip
    rows = connection.execute(query_text("report/ranked_psi")).fetchall()
    assert [tuple(map(float, row)) for row in rows] == [(1, 0.3, 0.4), (2, 0.1, 0.2)]
