"""Metrics against rows worked by hand and against a slow polars version; the order; what is refused."""

import random
import resource
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from benchmarks.speed.synthetic import make_run as synthetic
from curate.database.queries import query_text
from curate.errors import QueryError, RunError, UsageError, WriteError
from curate.rank import stage as rank_module
from curate.rank.psi import Psi, parse_psi
from curate.rank.rankings import write_database
from curate.rank.stage import parse_top, selected_count
from curate.storage.run import Run
from curate.storage.tables import temporary_path, write_table
from schemas import tables
from tests.curate.runs import BLEND, HAND_PAIRS, HAND_SCORES, make_run, qualities, ranked, ranking_rows
from tests.demo import ROOT


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)


# Percentiles among a, b, c, d: clip 0, 1/3, 2/3, 1; pickscore 1/3, 0, 1, 2/3.
PSI_PERCENTILE = {"a": (0 + 1 / 3) / 2, "b": (1 / 3 + 0) / 2, "c": (2 / 3 + 1) / 2, "d": (1 + 2 / 3) / 2}
# Between least and greatest: clip 0, 1/3, 2/3, 1; pickscore 1/2, 0, 1, 3/4.
PSI_MINMAX = {"a": (0 + 1 / 2) / 2, "b": (1 / 3 + 0) / 2, "c": (2 / 3 + 1) / 2, "d": (1 + 3 / 4) / 2}
PSI_RAW = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
SIDES = {"pair-0": ("a", "b"), "pair-1": ("b", "c"), "pair-3": ("d", "a")}  # (preferred, rejected)

FORMULAS: dict[str, Callable[[float, float], float]] = {
    "qsd": lambda preferred, rejected: preferred * (1 - rejected),
    "margin": lambda preferred, rejected: preferred - rejected,
    "winner": lambda preferred, rejected: preferred,
}


@pytest.mark.parametrize("metric", list(FORMULAS))
@pytest.mark.parametrize(
    ("psi", "values"),
    [
        (Psi({"clip": 1.0, "pickscore": 1.0}, "percentile"), PSI_PERCENTILE),
        (Psi({"clip": 1.0, "pickscore": 1.0}, "minmax"), PSI_MINMAX),
        (Psi({"clip": 1.0}, "raw"), PSI_RAW),
    ],
    ids=["percentile", "minmax", "raw"],
)
def test_metrics_equal_hand_worked_rows(run: Run, metric: str, psi: Psi, values: dict[str, float]) -> None:
    ranked(run, "default", metric, psi, "1.0")
    expected = {pair: FORMULAS[metric](values[w], values[loser]) for pair, (w, loser) in SIDES.items()}
    assert qualities(run) == pytest.approx(expected, abs=1e-7)  # raw scores are stored as float32


def test_qsd_of_raw_scores_by_hand(run: Run) -> None:
    ranked(run, "default", "qsd", Psi({"clip": 1.0}, "raw"), "1.0")
    assert qualities(run) == pytest.approx({"pair-0": 0.1 * 0.8, "pair-1": 0.2 * 0.7, "pair-3": 0.4 * 0.9})


def test_weights_of_a_blend(run: Run) -> None:
    ranked(run, "default", "winner", Psi({"clip": 3.0, "pickscore": 1.0}, "percentile"), "1.0")
    assert qualities(run)["pair-3"] == pytest.approx((3 * 1 + 2 / 3) / 4)


def test_equal_scores_share_the_lowest_percentile(tmp_path: Path) -> None:
    scores = {"a": (0.1, 1.0), "b": (0.5, 1.0), "c": (0.5, 1.0)}
    run = make_run(tmp_path / "run", [("a", "b", 1), ("b", "c", 0)], scores)
    ranked(run, "default", "winner", Psi({"clip": 1.0}, "percentile"), "1.0")
    assert qualities(run) == {"pair-0": 0.5, "pair-1": 0.5}


def test_a_scorer_of_one_value_has_no_say_by_minmax(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", 0)], {"a": (0.3, 1.0), "b": (0.2, 1.0)})
    ranked(run, "default", "winner", Psi({"pickscore": 1.0}, "minmax"), "1.0")
    assert qualities(run) == {"pair-0": 0.0}


def test_psi_reads_only_pictures_of_eligible_pairs(tmp_path: Path) -> None:
    """A tie's pictures must not move anyone's percentile."""
    pairs: list[tuple[str, str, int | None]] = [("a", "b", 0), ("x", "y", None)]
    run = make_run(tmp_path / "run", pairs, {"a": (0.2, 1), "b": (0.1, 1), "x": (0.9, 1), "y": (0.0, 1)})
    ranked(run, "default", "winner", Psi({"clip": 1.0}, "percentile"), "1.0")
    assert qualities(run) == {"pair-0": 1.0}


def test_counts_ties_and_columns(run: Run) -> None:
    report = ranked(run, "default", "qsd", BLEND, "2")
    assert (report["pairs"], report["base_pairs"], report["selected_pairs"]) == (4, 3, 2)
    assert report["dropped_pairs"] == {"tie": 1}
    rows = pq.read_table(run.rankings / "default.parquet").to_pylist()
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert [row["selected"] for row in rows] == [True, True, False]
    assert [row["percentile"] for row in rows] == [1.0, 0.5, 0.0]
    assert rows[0]["pair_id"] == "pair-3"
    assert rows[0]["clip_margin"] == pytest.approx(0.3)
    assert (rows[0]["pickscore_preferred"], rows[0]["pickscore_rejected"]) == (21.0, 20.0)
    dropped = pq.read_table(run.table("dropped") / "rank-default.parquet").to_pylist()
    assert [(row["stage"], row["pair_id"], row["reason"]) for row in dropped] == [("rank default", "pair-2", "tie")]


def test_a_pair_that_lost_an_image_is_not_ranked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", HAND_PAIRS, {uid: s for uid, s in HAND_SCORES.items() if uid != "c"})
    report = ranked(run, "default", "qsd", BLEND, "1.0")
    assert report["dropped_pairs"] == {"image_dropped": 1, "tie": 1}
    assert report["base_pairs"] == 2


def test_equal_qualities_are_ordered_by_pair_id(tmp_path: Path) -> None:
    scores = {"a": (0.5, 1.0), "b": (0.5, 1.0)}
    run = make_run(tmp_path / "run", [("a", "b", i % 2) for i in range(12)], scores)
    ranked(run, "default", "qsd", BLEND, "1.0")
    order = list(qualities(run))
    assert order == sorted(order)


def random_world(seed: int) -> tuple[list[tuple[str, str, int | None]], dict[str, tuple[float, float]]]:
    dice = random.Random(seed)
    uids = [f"i{n}" for n in range(60)]
    pairs: list[tuple[str, str, int | None]] = []
    for _ in range(300):
        one, other = dice.sample(uids, 2)
        pairs.append((one, other, dice.choice([0, 1, 1, 0, None])))
    return pairs, {uid: (dice.choice([0.1, 0.2, dice.random()]), dice.gauss(20, 1)) for uid in uids}


def test_ranking_does_not_depend_on_row_file_or_thread_order(tmp_path: Path) -> None:
    pairs, scores = random_world(0)
    straight = make_run(tmp_path / "straight", pairs, scores)
    shuffled = make_run(tmp_path / "shuffled", pairs, dict(random.Random(1).sample(list(scores.items()), len(scores))))
    table = pq.read_table(shuffled.pairs)
    order = random.Random(2).sample(range(table.num_rows), table.num_rows)
    write_table(table.take(order), shuffled.pairs, tables.PAIRS)
    halves = pq.read_table(shuffled.table("scores") / "p.parquet")
    schema = halves.schema
    write_table(halves.slice(0, 13), shuffled.table("scores") / "z.parquet", schema)
    write_table(halves.slice(13), shuffled.table("scores") / "p.parquet", schema)
    for run in (straight, shuffled):
        ranked(run, "default", "qsd", BLEND, "0.1")
    left, right = (pq.read_table(run.rankings / "default.parquet") for run in (straight, shuffled))
    assert left.equals(right)


def test_scores_that_stand_twice_are_an_error(run: Run) -> None:
    """A part left behind by hand: a pair would count twice."""
    shutil.copy(run.table("scores") / "p.parquet", run.table("scores") / "q.parquet")
    with pytest.raises(RunError, match=r"scores holds some scores more than once; run `curate embed` again"):
        ranked(run)


def test_a_run_whose_folder_reads_like_a_pattern(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a[1] 'b'", HAND_PAIRS, HAND_SCORES)
    assert ranked(run)["base_pairs"] == 3
    assert duckdb.connect(str(run.database), read_only=True).sql("select count(*) from ranking").fetchall() == [(3,)]


def test_a_run_below_folders_named_like_columns(tmp_path: Path) -> None:
    """By DuckDB's own reading of Parquet every prompt would be "x" and every quality "high"."""
    plain = make_run(tmp_path / "run", HAND_PAIRS, HAND_SCORES)
    odd = make_run(
        tmp_path / "prompt=x" / "quality=high" / "rank=16" / "clip_score=3" / "split=test", HAND_PAIRS, HAND_SCORES
    )
    assert ranked(odd) == ranked(plain)
    assert ranking_rows(odd) == ranking_rows(plain)
    for name in ("pairs", "prompts", "scores", "ranking"):
        rows = plain.relation(name).fetchall()
        assert odd.relation(name).fetchall() == rows
        assert duckdb.connect(str(odd.database), read_only=True).sql(f"from {name}").fetchall() == rows
        assert odd.frame(name).equals(plain.frame(name))
        file = "pairs.parquet" if name == "pairs" else name
        if name != "ranking":
            assert odd.folder.read_table(file).equals(plain.folder.read_table(file))


def test_one_picture_under_two_uids_is_set_aside_by_its_bytes(run: Run) -> None:
    """pair-0 is b against a, and d has bytes of its own."""
    rows = [
        {**dict.fromkeys(tables.IMAGES.names, 0), "image_uid": uid, "sha256": sha256, "format": "PNG"}
        | {"source_file": "f"}
        for uid, sha256 in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "3"))
    ]
    write_table(pa.Table.from_pylist(rows, schema=tables.IMAGES), run.table("images") / "p.parquet", tables.IMAGES)
    assert ranked(run)["dropped_pairs"] == {"same_image": 1, "tie": 1}
    assert sorted(qualities(run)) == ["pair-1", "pair-3"]
    assert duckdb.connect(str(run.database)).sql(
        "select pair_id, detail from dropped where reason = 'same_image'"
    ).fetchall() == [("pair-0", "both sides are the same image")]


def test_a_disk_too_full_for_the_database_keeps_the_old_one(run: Run) -> None:
    """DuckDB closes a file that it could not write without a word."""
    ranked(run)
    before = run.database.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"^cannot write \S+/curation.duckdb: .*; make room"):
            write_database(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.database.read_bytes() == before
    assert [path.name for path in run.root.iterdir() if "curation" in path.name] == ["curation.duckdb"]


def test_tables_behind_links(run: Run, tmp_path: Path) -> None:
    for name in ("pairs.parquet", "scores"):
        (run.root / name).rename(tmp_path / name)
        (run.root / name).symlink_to(tmp_path / name)
    assert ranked(run)["base_pairs"] == 3


def test_a_damaged_ranking_is_made_again(run: Run) -> None:
    ranked(run)
    (run.rankings / "default.parquet").write_bytes(b"PAR1")
    assert ranked(run)["base_pairs"] == 3
    ranked(run, "other")
    (run.rankings / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="run `curate rank --name other` again"):
        ranked(run)


def test_what_a_killed_process_left_is_replaced(run: Run) -> None:
    ranked(run)
    shutil.copy(run.database, temporary_path(run.database))
    ranked(run)
    temporary_path(run.database).write_text("garbage")
    assert ranked(run)["base_pairs"] == 3


def test_names_that_differ_in_case_only_are_refused(run: Run) -> None:
    ranked(run, "best")
    with pytest.raises(UsageError, match="there is a ranking 'best' already, and SQL does not tell them"):
        ranked(run, "Best")


def test_one_process_ranks_at_a_time(run: Run) -> None:
    with run.locked(), pytest.raises(RunError, match="another process is writing to"):
        ranked(run)


def test_little_memory_spills_into_the_run_and_ends_the_same(tmp_path: Path) -> None:
    run = synthetic(tmp_path / "run", 200_000)
    psi = Psi({"clip": 1.0, "pickscore": 1.0}, "percentile")
    ranked(run, "plenty", psi=psi)
    ranked(run, "little", psi=psi, memory="120MB")
    left, right = (pq.read_table(run.rankings / f"{name}.parquet") for name in ("plenty", "little"))
    assert left.to_pydict() == right.to_pydict()
    assert right["rank"].to_pylist() == list(range(1, right.num_rows + 1))
    order = [
        (-quality, pair_id)
        for quality, pair_id in zip(right["quality"].to_pylist(), right["pair_id"].to_pylist(), strict=True)
    ]
    assert order == sorted(order)
    assert not (run.root / ".spill").exists() or not list((run.root / ".spill").iterdir())


def test_every_way_to_find_the_scores_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides in one pass or one after the other; the scores that are used by a bit each or by a join."""
    run = synthetic(tmp_path / "run", 4000)
    found = []
    for share, marked in ((0.0, 0), (0.25, 10**9)):
        monkeypatch.setattr("curate.rank.psi.SHARE_OF_JOINS", share)
        monkeypatch.setattr("curate.rank.psi.MOST_MARKED", marked)
        ranked(run)
        found.append(ranking_rows(run))
    ranked(run, memory="none")
    assert found[0] == found[1] == ranking_rows(run)


@pytest.mark.parametrize(
    ("memory", "message"), [("1MB", "--memory 1MB is too little"), ("-1", "give a size"), ("much", "give a size")]
)
def test_an_impossible_memory_is_an_error(tmp_path: Path, memory: str, message: str) -> None:
    with pytest.raises((RunError, UsageError), match=message):
        ranked(synthetic(tmp_path / "run", 16_000), memory=memory)


def test_a_disk_that_is_too_full_to_spill_to_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, connect = synthetic(tmp_path / "run", 160_000), rank_module.connect_views

    def little_room(*of: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        connection = connect(*of, **options)
        connection.execute("set max_temp_directory_size = '2MB'")
        return connection

    monkeypatch.setattr(rank_module, "connect_views", little_room)
    message = r"^the disk of \S+ is too full to rank: .*; free some: what --memory 60MB cannot hold is spilled there$"
    with pytest.raises(RunError, match=message):
        ranked(run, memory="60MB")


def slow_ranking(run: Run, psi: Psi, metric: str) -> pl.DataFrame:
    """The same ranking by polars, row by row in Python where it is easier to see that it is right."""
    pairs, scores = pl.read_parquet(run.pairs), pl.read_parquet(str(run.table("scores") / "*.parquet"))
    of = {row["image_uid"]: row for row in scores.iter_rows(named=True)}
    sided = [
        (row["pair_id"], *((row["image_0_uid"], row["image_1_uid"])[:: 1 if row["preference"] == 0 else -1]))
        for row in pairs.iter_rows(named=True)
        if row["preference"] is not None
    ]
    used = sorted({uid for _, *uids in sided for uid in uids})

    def normalised(scorer: str, uid: str) -> float:
        values = [of[other][f"{scorer}_score"] for other in used]
        value = of[uid][f"{scorer}_score"]
        if psi.norm == "percentile":
            return sum(other < value for other in values) / (len(values) - 1)
        return (value - min(values)) / (max(values) - min(values))

    total = sum(psi.weights.values())
    blend = {uid: sum(w * normalised(s, uid) for s, w in sorted(psi.weights.items())) / total for uid in used}
    rows = [(pair, FORMULAS[metric](blend[preferred], blend[rejected])) for pair, preferred, rejected in sided]
    return pl.DataFrame(rows, schema=["pair_id", "quality"], orient="row").sort(
        ["quality", "pair_id"], descending=[True, False]
    )


@pytest.mark.parametrize("norm", ["percentile", "minmax"])
@pytest.mark.parametrize("metric", list(FORMULAS))
def test_ranking_equals_a_slow_polars_version(tmp_path: Path, norm: str, metric: str) -> None:
    run = make_run(tmp_path / "run", *random_world(3))
    psi = Psi({"clip": 2.0, "pickscore": 1.0}, norm)
    ranked(run, "default", metric, psi, "1.0")
    slow = slow_ranking(run, psi, metric)
    found = pl.read_parquet(run.rankings / "default.parquet")
    slow_by_id = dict(slow.iter_rows())
    assert dict(found.select("pair_id", "quality").iter_rows()) == pytest.approx(slow_by_id, abs=1e-12)
    assert found["quality"].is_sorted(descending=True)


def test_swapping_the_sides_negates_every_margin(tmp_path: Path) -> None:
    pairs, scores = random_world(4)
    swapped = [(a, b, None if preference is None else 1 - preference) for a, b, preference in pairs]
    margins = []
    for name, judgements in (("straight", pairs), ("swapped", swapped)):
        run = make_run(tmp_path / name, judgements, scores)
        ranked(run, "default", "margin", BLEND, "1.0")
        rows = pq.read_table(run.rankings / "default.parquet").to_pylist()
        margins.append({row["pair_id"]: (row["quality"], row["clip_margin"]) for row in rows})
    for pair, (quality, clip) in margins[0].items():
        assert margins[1][pair] == pytest.approx((-quality, -clip), abs=1e-12)


def test_named_rankings_live_side_by_side(run: Run) -> None:
    ranked(run, "one", "qsd", BLEND, "1")
    ranked(run, "two", "winner", BLEND, "3")
    assert sorted(path.name for path in run.rankings.glob("*.parquet")) == ["one.parquet", "two.parquet"]
    connection = duckdb.connect(str(run.database), read_only=True)
    counts = "select (select count(*) from ranking_one where selected), (select count(*) from ranking where selected)"
    assert connection.sql(counts).fetchall() == [(1, 3)]
    assert connection.sql("select count(*) from pair_scores").fetchall() == [(3,)]


def test_ranking_again_under_a_name_replaces_it(run: Run) -> None:
    ranked(run, "default", "qsd", BLEND, "1.0")
    ranked(run, "default", "winner", BLEND, "1")
    assert pq.read_table(run.rankings / "default.parquet")["selected"].to_pylist() == [True, False, False]
    assert len(list(run.table("dropped").glob("rank-*.parquet"))) == 1


def test_a_users_metric(run: Run, tmp_path: Path) -> None:
    metric = tmp_path / "mine.sql"
    metric.write_text("-- mine\nselect pair_id, clip_margin + 0.1 * pickscore_margin as quality from pair_scores")
    ranked(run, "default", str(metric), BLEND, "1.0")
    assert qualities(run)["pair-0"] == pytest.approx(-0.1 + 0.1 * 2.0, abs=1e-6)


def test_a_metric_may_leave_pairs_out_and_they_are_counted(run: Run, tmp_path: Path) -> None:
    metric = tmp_path / "some.sql"
    metric.write_text("select pair_id, clip_margin as quality from pair_scores where clip_margin > 0")
    report = ranked(run, "default", str(metric), BLEND, "1.0")
    assert report["dropped_pairs"] == {"not_ranked": 2, "tie": 1}
    assert report["base_pairs"] == 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select pair_id from pair_scores", "a metric returns the columns pair_id, quality; got pair_id"),
        (
            "select pair_id, 1 as quality, 2 as x from pair_scores",
            "a metric returns the columns pair_id, quality; got pair_id, quality, x",
        ),
        (
            "select pair_id, 1.0 as quality from pair_scores union all from (values ('pair-0', 1.0))",
            "it returned pair 'pair-0' more than once",
        ),
        ("select 'stranger' as pair_id, 1.0 as quality", "it returned pair 'stranger' though it is no eligible pair"),
        (
            "select pair_id, 'nan'::double as quality from pair_scores",
            "it returned pair 'pair-0' with a quality that is not finite",
        ),
        ("select pair_id, null as quality from pair_scores", "it gave none of the 3 pairs a quality"),
        ("select 1; select 2", "one SQL statement is needed, got 2"),
        ("copy pairs to 'out.csv'", "only queries are allowed here, got COPY; the run is read-only"),
    ],
)
def test_a_wrong_metric_is_refused(run: Run, tmp_path: Path, sql: str, message: str) -> None:
    metric = tmp_path / "wrong.sql"
    metric.write_text(sql)
    with pytest.raises(QueryError) as raised:
        ranked(run, "default", str(metric), BLEND, "1.0")
    assert str(raised.value) == f"{metric}: {message}"
    assert not run.rankings.exists()


def test_a_metric_that_does_not_parse_says_where(run: Run, tmp_path: Path) -> None:
    metric = tmp_path / "typo.sql"
    metric.write_text("select pair_id, psi_prefered as quality from pair_scores")
    with pytest.raises(QueryError, match=r"typo\.sql: Binder Error: .*psi_prefered") as raised:
        ranked(run, "default", str(metric), BLEND, "1.0")
    assert "psi_preferred" in str(raised.value)


def test_raw_needs_scores_between_0_and_1(run: Run) -> None:
    with pytest.raises(UsageError, match=r"--psi-norm raw: pickscore runs from 18 to 22, outside \[0, 1\]"):
        ranked(run, "default", "qsd", Psi({"pickscore": 1.0}, "raw"), "1.0")


def test_all_ties_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("a", "b", None)], HAND_SCORES)
    with pytest.raises(RunError, match=r"can be ranked: 1 are ties, 0 lack .* score of clip or pickscore"):
        ranked(run, "default", "qsd", BLEND, "1.0")


@pytest.mark.parametrize("top", ["0", "0.0", "2.5", "-1", "-0.1", "abc", "nan", "inf", "", "1e3", "0x10"])
def test_impossible_tops_are_refused(top: str) -> None:
    with pytest.raises(UsageError, match=r"^--top .*: give a fraction above 0 and at most 1\.0, such as 0\.0533, or"):
        parse_top(top)


@pytest.mark.parametrize(
    ("top", "base", "selected"),
    [
        ("0.0533", 851_293, 45_374),
        ("0.0533", 937_500, 49_969),
        ("1.0", 7, 7),
        ("7", 7, 7),
        ("0.5", 3, 2),
        ("1e-9", 10, 1),
    ],
)
def test_what_top_selects(top: str, base: int, selected: int) -> None:
    assert selected_count(parse_top(top), base) == selected


@given(st.floats(min_value=1e-6, max_value=1.0), st.integers(1, 10**7))
def test_a_fraction_never_selects_none_or_more_than_all(share: float, base: int) -> None:
    assert 1 <= selected_count(share, base) <= base
    assert abs(selected_count(share, base) - share * base) <= 1


def test_a_count_above_the_base_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--top 8: only 7 pairs are ranked; give at most that, or 1\.0 for all"):
        selected_count(8, 7)


def test_psi_texts() -> None:
    assert parse_psi("clip", "raw") == Psi({"clip": 1.0}, "raw")
    assert parse_psi(" clip=2, pickscore ", "minmax") == Psi({"clip": 2.0, "pickscore": 1.0}, "minmax")


@pytest.mark.parametrize(
    "text", ["", "clip=0", "clip=-1", "clip=nan", "clip=x", "clip=inf", "clip=1,clip=2", "a=1e308,b=1e308"]
)
def test_impossible_psi_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--psi"):
        parse_psi(text, "percentile")


def test_each_blocks_repeat_per_item() -> None:
    text = query_text("rank/pair_scores", scorer=["one", "two"])
    assert text.count("_margin") == 2
    assert "{scorer}" not in text


SQL_FILES = sorted((ROOT / "curate").rglob("*.sql"))


@pytest.mark.parametrize("path", SQL_FILES, ids=lambda path: path.stem)
def test_every_query_states_purpose_grain_and_inputs_and_is_lower_case(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = [line for line in lines if line.startswith("--")]
    assert header[0].startswith("-- Purpose: ")
    assert any(line.startswith("-- Grain: ") for line in header)
    assert any(line.startswith("-- Inputs: ") for line in header)
    body = "\n".join(line for line in lines if not line.strip().startswith("--"))
    assert body == body.lower()


def test_reports_are_stored_beside_the_ranking(run: Run) -> None:
    report: dict[str, Any] = ranked(run, "default", "qsd", BLEND, "0.5")
    stored = tomllib.loads((run.rankings / "default.toml").read_text())
    assert stored == report
    assert (stored["base_pairs"], stored["selected_pairs"], stored["psi_norm"]) == (3, 2, "percentile")
