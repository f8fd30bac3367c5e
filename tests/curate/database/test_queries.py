"""Each query of the ranking by itself, against rows written by hand; the report's and search's have their own files."""

from typing import Any

import duckdb
import pytest

from curate.database.queries import query_text
from tests.demo import ROOT

CURATE = ROOT / "curate"
BOTH = ["clip", "pick"]
HASH = {text: duckdb.execute("select hash(?)", [text]).fetchall()[0][0] for text in "pqabc01"}

# Views and tables that the cases pick from, as `name (columns): rows`.
TABLES = {
    "scores": (
        "prompt_id varchar, image_uid varchar, clip_score float, pick_score float",
        "('p', 'a', 1, 10), ('p', 'b', 'nan', 20), ('p', 'c', 3, null), ('q', 'a', 'inf', 40), "
        "(null, 'a', 1, 10), ('q', null, 1, 10)",
    ),
    "scored": (
        "score_id bigint, prompt_id varchar, image_uid varchar, prompt_hash ubigint, image_hash ubigint, "
        "clip_score float, pick_score float",
        "(1, 'p', 'a', hash('p'), hash('a'), 1, 10), (2, 'p', 'b', hash('p'), hash('b'), null, 20), "
        "(3, 'p', 'c', hash('p'), hash('c'), 3, null), (4, 'q', 'a', hash('q'), hash('a'), 4, 40), "
        "(5, 'q', 'b', hash('q'), hash('b'), 4, 5)",
    ),
    "usable": (
        "score_id bigint, prompt_hash ubigint, image_hash ubigint, clip_score float, pick_score float",
        "(1, hash('p'), hash('a'), 1, 10), (3, hash('p'), hash('c'), 3, null), (4, hash('q'), hash('a'), 4, 40), "
        "(5, hash('q'), hash('b'), 4, 5)",
    ),
    "sided": (
        "pair_id varchar, prompt_id varchar, preferred_uid varchar, rejected_uid varchar, "
        "clip_preferred float, pick_preferred float, preferred_id bigint",
        "('1', 'p', 'a', 'c', 1, 10, 1), ('2', 'p', 'a', 'c', 1, 10, 1), ('3', 'p', 'a', 'b', 1, 10, 1), "
        "('5', 'q', 'a', 'b', 4, 40, 4)",
    ),
    "pairs": (
        "pair_id varchar, prompt_id varchar, image_0_uid varchar, image_1_uid varchar, preference tinyint, "
        "split varchar, annotator_id varchar, image_0_model varchar, image_1_model varchar, source_file varchar, "
        "strength float, disagreement float, confidence int",
        "('1', 'p', 'a', 'c', 0, 's', 'ann', 'm', 'n', 'f', 0.75, 0.5, 7), "
        "('2', 'p', 'c', 'a', 1, 's', 'ann', 'm', 'n', 'f', 0.75, 0.5, 7), "
        "('3', 'p', 'a', 'b', 0, 's', 'bob', 'm', 'n', 'f', 0.75, 0.5, 7), "
        "('4', 'p', 'a', 'x', 1, 't', null, null, 'n', 'f', 0.75, 0.5, 7), "
        "('5', 'q', 'b', 'a', 1, 't', 'bob', 'm', 'n', 'g', null, null, 8), "
        "('6', 'p', 'a', 'c', null, 't', 'bob', 'm', 'n', 'g', null, null, 8)",
    ),
    "prompts": (
        "prompt_id varchar, prompt varchar, clip_embedding float[2]",
        "('p', 'a prompt', [1, 0]), ('q', 'another', [0, 1]), ('r', 'unused', [1, 1])",
    ),
    "eligible": (
        "pair_id varchar, prompt_id varchar, preferred_uid varchar, rejected_uid varchar, "
        "clip_preferred float, pick_preferred float, preferred_id bigint, "
        "clip_rejected float, pick_rejected float, rejected_id bigint",
        "('1', 'p', 'a', 'c', 1, 10, 1, 3, null, 3), ('2', 'p', 'a', 'c', 1, 10, 1, 3, null, 3), "
        "('5', 'q', 'a', 'b', 4, 40, 4, 4, 5, 5)",
    ),
    "used_scores": (
        "score_id bigint, clip_score float, pick_score float",
        "(1, 1, 10), (3, 3, 10), (4, 4, 10), (5, 4, 10)",
    ),
    "normalised": (
        "score_id bigint, clip_score float, pick_score float, clip_unit double, pick_unit double",
        "(1, 1, 10, 0, 0.5), (3, 3, null, 1, 0.25)",
    ),
    "psi_weights": ("clip_weight double, pick_weight double", "(3, 1)"),
    "psi": (
        "score_id bigint, psi double",
        "(1, 0.5), (3, 0.25), (4, 1), (5, 0)",
    ),
    "pair_scores": (
        "pair_id varchar, prompt_id varchar, preferred_uid varchar, rejected_uid varchar, clip_preferred float, "
        "clip_rejected float, clip_margin float, pick_preferred float, pick_rejected float, pick_margin float, "
        "psi_preferred double, psi_rejected double",
        "('1', 'p', 'a', 'c', 1, 3, -2, 10, null, null, 0.5, 0.25), ('5', 'q', 'a', 'b', 4, 4, 0, 40, 5, 35, 1, 0)",
    ),
    "calibration_weights": ("clip_weight double, pick_weight double", "(-0.5, 0.1)"),
    "calibrated": ("pair_id varchar, log_odds double", "('1', 2), ('2', 0), ('3', -1), ('5', null)"),
    "metric_result": (
        "pair_id varchar, quality double",
        "('1', 0.5), ('2', 0.5), ('5', 0.9), ('3', null)",
    ),
    "other_result": ("pair_id varchar, quality double", "('1', 3), ('2', 2), ('5', 1)"),
    "repeated_bytes": ("bytes_hash ubigint", "(hash('0')), (hash('1'))"),
    "left_out": ("pair_id varchar, reason varchar", "('2', 'where')"),
    "ranked": (
        "rank bigint, pair_number bigint, quality double",
        "(1, 2, 0.9), (2, 0, 0.5)",
    ),
    "passed_over": ("rank bigint, reason varchar", "(1, 'diversity')"),
    "not_ranked": ("pair_id varchar, reason varchar", "('6', 'tie'), ('2', 'where')"),
    "reasons": ("reason varchar, detail varchar", "('tie', 'neither'), ('where', 'no')"),
    "kept": ("prompt_id varchar, selected boolean", "('p', true), ('p', false), ('q', false)"),
    # Pictures a and c of models m and n under p, judged twice; b of a third model; a pair of m with itself.
    "sampled_pairs": (
        "pair_id varchar, prompt_id varchar, image_0_uid varchar, image_1_uid varchar, image_0_model varchar, "
        "image_1_model varchar, category varchar",
        "('1', 'p', 'a', 'c', 'm', 'n', 'x'), ('2', 'p', 'c', 'a', 'n', 'm', 'x'), "
        "('3', 'p', 'a', 'b', 'm', 'o', 'x'), ('4', 'q', 'b', 'a', 'n', 'm', null), "
        "('5', 'q', 'a', 'z', 'm', 'm', null), ('6', 'q', 'a', 'y', 'm', 'n', null)",
    ),
    "compared_pictures": (
        "picture bigint, place bigint, prompt_id varchar, image_uid varchar, model bigint",
        "(0, 0, 'p', 'a', 0), (1, 0, 'p', 'c', 1), (2, 1, 'q', 'a', 0), (3, 1, 'q', 'z', 0), (4, 1, 'q', 'b', 1)",
    ),
    "images": (
        "image_uid varchar, format varchar, clip_embedding float[2], sha256 varchar",
        "('c', 'JPEG', [3, 4], '0'), ('a', 'PNG', [1, 2], '1'), ('b', 'WEBP', [5, 6], '1'), ('z', 'PNG', [7, 8], '0')",
    ),
    "dropped": (
        "image_uid varchar, pair_id varchar, reason varchar",
        "('y', null, 'image_missing'), ('b', null, 'image_empty'), (null, '9', 'tie')",
    ),
    "first_ranking": (
        "pair_id varchar, prompt_id varchar, rank bigint, percentile double, selected boolean",
        "('1', 'p', 1, 1, true), ('2', 'p', 2, 0.5, true), ('5', 'q', 3, 0, false)",
    ),
    "second_ranking": (
        "pair_id varchar, prompt_id varchar, rank bigint, percentile double, selected boolean",
        "('5', 'q', 1, 1, true), ('1', 'p', 2, 0, false)",
    ),
}

Case = tuple[list[str], dict[str, list[str]], dict[str, Any], list[tuple[Any, ...]]]
CASES: dict[str, Case] = {
    # What is not finite is null; the numbers count the rows; a null id names no picture.
    "database/scored": (
        ["scores"],
        {"scorer": BOTH, "number": ["row_number() over ()"], "id": ["prompt_id", "image_uid"]},
        {},
        [
            (1, "p", "a", HASH["p"], HASH["a"], 1, 10),
            (2, "p", "b", HASH["p"], HASH["b"], None, 20),
            (3, "p", "c", HASH["p"], HASH["c"], 3, None),
            (4, "q", "a", HASH["q"], HASH["a"], None, 40),
        ],
    ),
    # With pick too, c's missing value would take 3 away.
    "rank/usable": (
        ["scored"],
        {"scorer": BOTH, "weighed": ["clip"]},
        {},
        [
            (1, 1, 10, HASH["p"], HASH["a"]),
            (3, 3, None, HASH["p"], HASH["c"]),
            (4, 4, 40, HASH["q"], HASH["a"]),
            (5, 4, 5, HASH["q"], HASH["b"]),
        ],
    ),
    # 4: x has no row; 6: a tie.
    "rank/sided": (
        ["pairs", "usable"],
        {"scorer": BOTH},
        {},
        [
            ("1", "p", "a", "c", 1, 10, 1),
            ("2", "p", "a", "c", 1, 10, 1),
            ("3", "p", "a", "b", 1, 10, 1),
            ("5", "q", "a", "b", 4, 40, 4),
        ],
    ),
    # 3: b has no clip.
    "rank/eligible": (
        ["sided", "usable"],
        {"scorer": BOTH},
        {},
        [
            ("1", "p", "a", "c", 1, 10, 1, 3, None, 3),
            ("2", "p", "a", "c", 1, 10, 1, 3, None, 3),
            ("5", "q", "a", "b", 4, 40, 4, 4, 5, 5),
        ],
    ),
    "rank/used_scores": (
        ["eligible", "scored"],
        {"scorer": BOTH},
        {},
        [(1, 10, 1), (3, None, 3), (4, 40, 4), (4, 5, 5)],
    ),
    "rank/used_scores_marked": (
        ["eligible", "scored"],
        {"scorer": BOTH, "last": ["5"]},
        {},
        [(1, 10, 1), (3, None, 3), (4, 40, 4), (4, 5, 5)],
    ),
    "rank/normalised_percentile": (
        ["used_scores"],
        {"scorer": BOTH},
        {},
        [
            (1, 1, 10, 0, 0),
            (3, 3, 10, pytest.approx(1 / 3), 0),
            (4, 4, 10, pytest.approx(2 / 3), 0),
            (5, 4, 10, pytest.approx(2 / 3), 0),
        ],
    ),
    "rank/normalised_minmax": (
        ["used_scores"],
        {"scorer": BOTH},
        {},
        [(1, 1, 10, 0, 0), (3, 3, 10, pytest.approx(2 / 3), 0), (4, 4, 10, 1, 0), (5, 4, 10, 1, 0)],
    ),
    "rank/normalised_raw": (
        ["used_scores"],
        {"scorer": BOTH},
        {},
        [(1, 1, 10, 1, 10), (3, 3, 10, 3, 10), (4, 4, 10, 4, 10), (5, 4, 10, 4, 10)],
    ),
    # (3 * 0 + 0.5) / 4 and (3 * 1 + 0.25) / 4
    "rank/psi": (
        ["normalised", "psi_weights"],
        {"scorer": BOTH},
        {},
        [(1, 0.125), (3, 0.8125)],
    ),
    "rank/pair_scores": (
        ["eligible", "psi"],
        {"scorer": BOTH},
        {},
        [
            ("1", "p", "a", "c", 1, 3, -2, 10, None, None, 0.5, 0.25),
            ("2", "p", "a", "c", 1, 3, -2, 10, None, None, 0.5, 0.25),
            ("5", "q", "a", "b", 4, 4, 0, 40, 5, 35, 1, 0),
        ],
    ),
    "rank/pair_facts": (
        ["pair_scores", "pairs", "prompts"],
        {"kept": ["confidence"]},
        {},
        [
            (*"1pac", 1, 3, -2, 10, None, None, 0.5, 0.25, "a prompt", "s", "ann", 0.75, 0.5, 7, "m", "n", False, "f"),
            (*"5qab", 4, 4, 0, 40, 5, 35, 1, 0, "another", "t", "bob", None, None, 8, "n", "m", False, "g"),
        ],
    ),
    "rank/score_ranges": (["used_scores"], {"scorer": BOTH}, {}, [("clip", 1, 4), ("pick", 10, 10)]),
    "rank/calibrated": (["pair_scores", "calibration_weights"], {"scorer": BOTH}, {}, [("1", None), ("5", 3.5)]),
    # All: (1 + 1/2 + 0) / 3 = 1/2. Ann: (1.5 + 5) / 12; Bob, whose pair 5 has no odds: (0 + 5) / 11.
    "rank/annotators": (
        ["calibrated", "pairs"],
        {},
        {},
        [("ann", 2, pytest.approx(6.5 / 12)), ("bob", 1, pytest.approx(5 / 11))],
    ),
    "rank/complete_margins": (["pair_scores"], {"scorer": BOTH}, {}, [(0, 35, "5")]),
    "rank/ranked": (
        ["metric_result", "eligible", "left_out"],
        {},
        {"sign": 1},
        [(0, 0.5), (2, 0.9)],
    ),
    "rank/prompt_embeddings": (
        ["prompts"],
        {"embedding": ["clip_embedding"]},
        {},
        [("p", (1.0, 0.0)), ("q", (0.0, 1.0)), ("r", (1.0, 1.0))],
    ),
    "rank/prompts_missing": (["ranked", "eligible", "prompts"], {}, {}, []),
    "rank/candidates": (
        ["ranked", "eligible", "pairs"],
        {"image": ["preferred_uid", "rejected_uid"], "annotator": ["annotator_id"]},
        {"last": 2},
        [("p", "a", "c", "ann"), ("q", "a", "b", "bob")],
    ),
    "rank/ranking": (
        ["ranked", "eligible", "passed_over"],
        {"scorer": ["clip"]},
        {"last_rank": 2, "base_pairs": 2},
        [
            ("1", "p", "a", "c", 0.5, 2, 0.0, True, None, 1, 3, -2),
            ("5", "q", "a", "b", 0.9, 1, 1.0, False, "diversity", 4, 4, 0),
        ],
    ),
    "rank/metric_faults": (["metric_result", "eligible"], {}, {}, [("3", "though it is no eligible pair")]),
    "rank/metric_summary": (["metric_result", "eligible"], {}, {}, [(3, 3, 2, 2, 0.5, 0.9, 0.5)]),
    # Ranks 1.5, 1.5, 3 against 3, 2, 1: -0.866; our top pair, 5, is the other's last.
    "rank/metric_agreement": (
        ["metric_result", "other_result"],
        {},
        {"share": 0.33},
        [(pytest.approx(-(0.75**0.5)), 0.0)],
    ),
    "rank/dropped_ties": (["pairs"], {}, {}, [("6", "tie")]),
    "rank/dropped_unscored": (
        ["pairs", "eligible", "scored"],
        {},
        {},
        [("3", "score_missing"), ("4", "image_dropped")],
    ),
    "rank/dropped_unmeasured": (["eligible", "left_out", "ranked"], {}, {}, []),
    # 1, too, were c's bytes those of a; 2 is left out already.
    "rank/repeated_bytes": (["images"], {}, {}, [(HASH["0"],), (HASH["1"],)]),
    "rank/same_bytes": (["eligible", "images", "repeated_bytes", "left_out"], {}, {}, [("5", "same_image")]),
    "rank/dropped_by_rank": (
        ["not_ranked", "reasons"],
        {},
        {"stage": "rank x"},
        [("rank x", "2", None, "where", "no"), ("rank x", "6", None, "tie", "neither")],
    ),
    "compare/models": (["pairs"], {}, {}, [("m", "n", 5), (None, "n", 1)]),
    # 'b' and 'z' of q: b has a row in `scored`, z has none; the third model, o, is not asked for.
    "compare/pictures": (
        ["sampled_pairs", "prompts", "scored"],
        {"scorer": BOTH},
        {"models": ["m", "n"]},
        [
            (0, 0, "p", "a", 0, 1, 10),
            (1, 0, "p", "c", 1, 3, None),
            (2, 1, "q", "a", 0, 4, 40),
            (3, 1, "q", "b", 1, 4, 5),
        ],
    ),
    # Judged twice is one pair; two pictures of one model are none; y was not scored.
    "compare/pairs": (["sampled_pairs", "compared_pictures"], {}, {"models": ["m", "n"]}, [(0, 1), (2, 4)]),
    "compare/prompts": (
        ["sampled_pairs", "prompts", "compared_pictures"],
        {},
        {},
        [(0, "a prompt", "x"), (1, "another", None)],
    ),
    "compare/embeddings": (
        ["compared_pictures", "images"],
        {"tower": ["clip"]},
        {},
        [((1.0, 2.0),), ((3.0, 4.0),), ((1.0, 2.0),), ((7.0, 8.0),), ((5.0, 6.0),)],
    ),
    "compare/faults": (
        ["sampled_pairs", "dropped"],
        {},
        {"models": ["m", "n"]},
        [("n", "image_empty", 1), ("n", "image_missing", 1)],
    ),
    # Judged twice is one pair, sides as in its first row; y has no image; a pair of m with itself is not shown.
    "review/pairs": (
        ["sampled_pairs", "prompts", "images"],
        {},
        {"models": ["m", "n"]},
        [
            ("1", "p", "a prompt", "a", "c", "m", "n", "PNG", "JPEG"),
            ("4", "q", "another", "b", "a", "n", "m", "WEBP", "PNG"),
        ],
    ),
    "rank/coverage": (["kept"], {"ranking": ["kept"]}, {}, [(2, 1)]),
    "rank/ranking_overlap": (["first_ranking", "second_ranking"], {}, {}, [(3, 2, 2, 2, 1, 0, pytest.approx(-1))]),
    "rank/ranking_moved": (
        ["first_ranking", "second_ranking", "prompts"],
        {},
        {"limit": 5},
        [("1", "a prompt", 1, 0, 1, 2, True, False), ("5", "another", 0, 1, 3, 1, False, True)],
    ),
}

# Where the other queries have their hand-written rows.
OF_THE_REPORT = (
    *(
        "report/gallery",
        "report/gallery_count",
        "report/ranked_psi",
        "report/ranked_facts",
        "report/agreement",
        "report/correlations",
    ),
    *("report/histograms", "report/prompts", "report/scorers"),
)
ELSEWHERE = {
    "sources/candidate_pairs": "sources/layouts/test_prepare.py",
    "sources/candidates_left_out": "sources/layouts/test_prepare.py",
    "rank/by_rule": "rank/test_prefer.py",
    "rank/turned": "rank/test_prefer.py",
    "rank/margins": "rank/metrics/test_calibration.py",
    "export/order": "export/test_export_shards.py",
    "export/samples": "export/test_export_shards.py",
    "export/formats": "export/test_export_shards.py",
    "export/verified_samples": "export/verify/test_verify.py",
    "ask/search": "ask/test_search.py",
    "ask/search_pairs": "ask/test_search.py",
    **dict.fromkeys(OF_THE_REPORT, "report/test_report_sql.py"),
}


STANDS_FOR = {"sampled_pairs": "pairs"}  # a table of rows that only some queries are worked on


def connect(names: list[str]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name in names:
        columns, rows = TABLES[name]
        name = STANDS_FOR.get(name, name)
        connection.execute(f"create table {name} ({columns})")
        connection.execute(f"insert into {name} values {rows}")
    return connection


@pytest.mark.parametrize("name", CASES)
def test_a_query_gives_the_rows_worked_by_hand(name: str) -> None:
    tables, blocks, parameters, expected = CASES[name]
    found = connect(tables).execute(query_text(name, **blocks), parameters).fetchall()
    assert sorted(found, key=lambda row: [str(value) for value in row]) == sorted(
        expected, key=lambda row: [str(getattr(value, "expected", value)) for value in row]
    )


@pytest.mark.parametrize(
    "name",
    [
        "rank/ranked",
        "rank/ranking",
        "rank/candidates",
        "rank/dropped_by_rank",
        "rank/ranking_moved",
        "compare/pictures",
        "compare/pairs",
    ],
)
def test_a_query_that_promises_an_order_keeps_it(name: str) -> None:
    tables, blocks, parameters, _ = CASES[name]
    found = connect(tables).execute(query_text(name, **blocks), parameters).fetchall()
    order: dict[str, list[Any]] = {
        "rank/ranked": [2, 0], "rank/ranking": ["5", "1"], "rank/candidates": ["q", "p"],
        "rank/dropped_by_rank": ["2", "6"],
        "rank/ranking_moved": ["1", "5"], "compare/pictures": [0, 1, 2, 3], "compare/pairs": [0, 2],
    }  # fmt: skip
    column = 1 if name == "rank/dropped_by_rank" else 0
    assert [row[column] for row in found] == order[name]


def test_worst_first() -> None:
    tables, blocks, _, _ = CASES["rank/ranked"]
    found = connect(tables).execute(query_text("rank/ranked", **blocks), {"sign": -1}).fetchall()
    assert found == [(0, 0.5), (2, 0.9)]


def test_a_pair_that_no_metric_measured() -> None:
    connection = connect(["eligible", "left_out", "ranked"])
    connection.execute("delete from ranked where pair_number = 2")
    assert connection.execute(query_text("rank/dropped_unmeasured")).fetchall() == [("5", "not_ranked")]


def test_a_prompt_without_a_row() -> None:
    connection = connect(["ranked", "eligible", "prompts"])
    connection.execute("delete from prompts")
    assert connection.execute(query_text("rank/prompts_missing")).fetchall() == [("p",)]


def test_every_query_has_rows_worked_by_hand() -> None:
    names = {f"{path.parts[-3]}/{path.stem}" for path in CURATE.glob("*/sql/*.sql")}
    assert names == set(CASES) | set(ELSEWHERE)
    for name, file in ELSEWHERE.items():
        assert (ROOT / "tests/curate" / file).exists(), name
