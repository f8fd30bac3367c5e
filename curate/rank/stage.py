"""`curate rank`: a metric in SQL over the pairs' scores, a total order, the best selected."""

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import tomli_w

from curate.database.connection import (
    connect_views,
    copy_query,
    create_view,
    fetch,
    fetch_count,
    first_line,
    literal,
    parquet_rows,
    seal,
)
from curate.database.queries import query_text
from curate.database.user_sql import materialise
from curate.errors import QueryError, RunError, UsageError
from curate.rank.filters import Filters, set_aside
from curate.rank.metrics.calibration import Calibration, calibrate
from curate.rank.metrics.metric import Metric, judging, load_metric, mentions, parameter_values, scorers_of
from curate.rank.metrics.pareto import create_fronts
from curate.rank.prefer import HUMAN, check_asks_nobody, lead, preferred_pairs, ruled_by
from curate.rank.psi import Psi, check_psi, create_calibration_views, create_psi_tables
from curate.rank.rankings import write_database
from curate.rank.selection.coverage import prompt_coverage, topic_coverage
from curate.rank.selection.selection import Limits, Prompts, Selection, read_prompts, select
from curate.storage.run import Run
from curate.storage.tables import write_text
from schemas import tables
from schemas.reasons import PAIR_REASONS


@dataclass(frozen=True)
class RankOptions:
    """How pairs are ranked and which are selected.

    metric: a shipped metric's name, or a .sql file that returns pair_id, quality; params: its "name=value".
    top: a fraction of the ranked pairs such as "0.0533", or a count such as "5000". reverse: worst first.
    prefer: whose preference names the sides: "human", a scorer, "psi", "vote" or "consensus".
    memory: what DuckDB may hold before it spills into the run directory, such as "8GB"; None: 80 % of the machine's.
    """

    psi: Psi = field(default_factory=Psi)
    name: str = "default"
    metric: str = "qsd"
    params: tuple[str, ...] = ()
    top: str = "0.0533"
    reverse: bool = False
    prefer: str = HUMAN
    filters: Filters = field(default_factory=Filters)
    limits: Limits = field(default_factory=Limits)
    memory: str | None = None


def rank(run: Run, options: RankOptions | None = None) -> dict[str, Any]:
    """Write rankings/<name>.parquet, its .toml, and curation.duckdb; return the counts.

    Raises: UsageError, QueryError, RunError.

    >>> from curate.storage import open_run
    >>> report = rank(open_run("run"), RankOptions(top="100", name="best"))
    >>> report["selected_pairs"]
    100
    """
    options = options or RankOptions()
    run.summary()  # a lock makes the folder: not for a run that is not there
    with run.locked():
        try:
            return _rank(run, options)
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            if too_little := _too_little_room(run, options, error):
                raise too_little from error
            raise


def _too_little_room(run: Run, options: RankOptions, error: duckdb.Error) -> RunError | None:
    """What to say of memory, or of the disk that it spills to, that is full; None for another error."""
    limit = f"--memory {options.memory}" if options.memory else "this machine's memory"
    if "max_temp_directory_size" in str(error) or "No space left" in str(error):
        needs = f"what {limit} cannot hold is spilled there"
        return RunError(f"the disk of {run.root} is too full to rank: {first_line(error)}; free some: {needs}")
    if isinstance(error, duckdb.OutOfMemoryException):
        return RunError(f"{limit} is too little to rank {run.root}: {first_line(error)}; give more")
    return None


def _rank(run: Run, options: RankOptions) -> dict[str, Any]:
    share = parse_top(options.top)
    scorers = check_psi(run, options.psi, options.prefer)
    options.filters.check(scorers)
    options.limits.check()
    _check_name(run, options.name)
    metric = load_metric(options.metric)
    values = parameter_values(metric, options.params)
    metric.check(scorers)
    check_asks_nobody(options.prefer, metric, options.filters)
    connection = connect_views(run, rankings=False)  # one of them may be what is made anew
    _limit_memory(connection, options.memory)
    connection.execute("set preserve_insertion_order = false")  # what needs an order states it
    prepare_pairs(connection, run, scorers, options.psi, options.prefer)
    calibration = prepare_inputs(connection, scorers, [metric], options.filters)

    seal(connection, run)
    _set_aside(connection, options, scorers)
    measure(connection, metric, scorers, values)
    sign = -1 if options.reverse else 1
    connection.execute(f"create temp table ranked_rows as\n{query_text('rank/ranked')}", {"sign": sign})
    create_view(connection, "ranked", "select rowid + 1 as rank, * from ranked_rows")
    pairs, base = run.summary()["pairs"], fetch_count(connection, "ranked")
    _check_base(connection, base, metric)
    limits = options.limits
    prompts = read_prompts(connection, limits.near_duplicates) if limits.needs_embeddings else None
    selection = select(connection, limits, prompts, selected_count(share, base), base)

    preferred = preferred_pairs(connection, options.prefer)
    dropped = _write_dropped(connection, run, options, pairs, base)
    if base + sum(dropped.values()) != pairs:
        raise RunError(f"the counts of {run.root} do not add up: {base} ranked + {dropped} != {pairs} pairs")
    ranking = run.rankings / f"{options.name}.parquet"
    _write_ranking(connection, ranking, scorers, selection)
    report = {
        "name": options.name,
        "metric": options.metric,
        "metric_sql": metric.text,
        "params": values,
        "reverse": options.reverse,
        **preferred,
        "psi": dict(options.psi.weights),
        "psi_norm": options.psi.norm,
        "chosen_by": _chosen_by(metric, scorers, options),
        "filters": options.filters.stated(),
        "nsfw_scorers": options.filters.nsfw_scorers(scorers),
        "limits": {key: value for key, value in vars(limits).items() if value is not None},
        "top": options.top,
        "pairs": pairs,
        "base_pairs": base,
        "wanted_pairs": selected_count(share, base),
        "selected_pairs": selection.count,
        "dropped_pairs": dropped,
        "passed_over": dict(sorted(Counter(selection.passed_over.values()).items())),
        "least_selected_quality": _quality_at(connection, selection.last_rank),
        "coverage": _coverage(connection, ranking, prompts),
    } | ({"calibration": calibration.report()} if calibration else {})
    write_text(tomli_w.dumps(report, multiline_strings=True), run.rankings / f"{options.name}.toml")
    _close_and_write_database(connection, run)
    return report


def _chosen_by(metric: Metric, scorers: list[str], options: RankOptions) -> list[str]:
    """The scorers that had a say in which pairs are selected, by the metric or by a filter."""
    filters = options.filters
    queries = [metric.sql(judging(scorers)), filters.where or "", *(f"{name}_score" for name in filters.min_scores)]
    queries += ["annotators"] if filters.min_annotator_agreement is not None else []
    ruling = ruled_by(options.prefer, scorers, options.psi.weights)
    return sorted({*scorers_of("\n".join(queries), scorers, options.psi.weights), *ruling})


def parse_top(top: str) -> int | float:
    """A count (int) from digits alone, or a fraction in (0, 1] (float). Raises UsageError for anything else."""
    try:
        share: int | float = int(top) if top.isdecimal() else float(top)
    except ValueError:
        share = 0
    if share <= 0 or (isinstance(share, float) and not share <= 1.0):
        raise UsageError(
            f"--top {top}: give a fraction above 0 and at most 1.0, such as 0.0533, or a whole number of pairs"
        )
    return share


def selected_count(share: int | float, base: int) -> int:
    """How many of `base` pairs a share means; fractions are rounded half up, and select one pair at least.

    Raises: UsageError for a count above `base`.
    """
    if isinstance(share, float):
        return max(1, math.floor(share * base + 0.5))
    if share > base:
        raise UsageError(f"--top {share}: only {base:,} pairs are ranked; give at most that, or 1.0 for all")
    return share


def prepare_pairs(
    connection: duckdb.DuckDBPyConnection, run: Run, scorers: list[str], psi: Psi, prefer: str = HUMAN
) -> None:
    """`pair_scores` and what it is made of, computed once. Raises RunError, UsageError where nothing can be ranked."""
    create_psi_tables(connection, scorers, psi, prefer=prefer)
    _check_eligible(connection, run, psi, prefer)
    _check_raw(connection, psi)


def prepare_inputs(
    connection: duckdb.DuckDBPyConnection, scorers: list[str], metrics: list[Metric], filters: Filters | None = None
) -> Calibration | None:
    """What metrics and filters read beyond `pair_scores`: views `calibrated` and `annotators`, table `fronts`."""
    calibration = None
    queries = [metric.text for metric in metrics] + ([filters.where] if filters and filters.where else [])
    by_annotator = filters is not None and filters.min_annotator_agreement is not None
    if by_annotator or any(mentions(query, view) for query in queries for view in ("calibrated", "annotators")):
        if not judging(scorers):
            raise RunError(f"the run's scorers ({', '.join(scorers)}) say nothing of quality: nothing to calibrate on")
        calibration = calibrate(connection, judging(scorers))
        if calibration.pairs == 0:
            raise RunError(f"no pair has a margin of every scorer ({', '.join(judging(scorers))}) to calibrate on")
        create_calibration_views(connection, calibration.weights)
    if any(mentions(query, "fronts") for query in queries):
        create_fronts(connection, judging(scorers))
    return calibration


def measure(connection: duckdb.DuckDBPyConnection, metric: Metric, scorers: list[str], values: dict[str, Any]) -> None:
    """The metric's result as the table `metric_result` (pair_id, quality), checked. Raises QueryError."""
    columns = materialise(connection, "metric_result", metric.sql(judging(scorers)), values, str(metric.path))
    if sorted(columns) != ["pair_id", "quality"]:
        raise QueryError(f"{metric.path}: a metric returns the columns pair_id, quality; got {', '.join(columns)}")
    if columns["pair_id"] != "VARCHAR":
        raise QueryError(f"{metric.path}: pair_id must be the pair's own, text; got {columns['pair_id']}")
    if columns["quality"] != "DOUBLE":
        query = "select pair_id, quality::double as quality from metric_result"
        materialise(connection, "metric_result", query, {}, str(metric.path))
    if metric.shipped:
        return  # its result on hand-made and random tables is what the tests check
    for pair_id, fault in fetch(connection, query_text("rank/metric_faults")):
        raise QueryError(f"{metric.path}: it returned pair {pair_id!r} {fault}")


def _set_aside(connection: duckdb.DuckDBPyConnection, options: RankOptions, scorers: list[str]) -> None:
    """`left_out` by rule and filters, then the pairs of one picture under two uids, which most runs have not."""
    set_aside(connection, options.filters, scorers, lead(options.prefer, scorers))
    connection.execute(f"create temp table repeated_bytes as\n{query_text('rank/repeated_bytes')}")
    if fetch_count(connection, "repeated_bytes"):
        connection.execute(f"insert into left_out\n{query_text('rank/same_bytes')}")


def _check_name(run: Run, name: str) -> None:
    """Views do not tell upper from lower case. Raises UsageError."""
    for path in run.rankings.glob("*.toml"):
        if path.stem != name and path.stem.casefold() == name.casefold():
            raise UsageError(
                f"--name {name}: there is a ranking '{path.stem}' already, and SQL does not tell them apart"
            )


def _limit_memory(connection: duckdb.DuckDBPyConnection, memory: str | None) -> None:
    if memory is None:
        return
    try:
        if memory.strip().startswith("-"):
            raise duckdb.ParserException(memory)  # to DuckDB it means no limit
        connection.execute(f"set memory_limit = {literal(memory)}")
    except duckdb.Error as error:
        raise UsageError(f"--memory {memory}: give a size such as 8GB") from error


def _check_eligible(connection: duckdb.DuckDBPyConnection, run: Run, psi: Psi, prefer: str) -> None:
    eligible, judged = fetch_count(connection, "eligible"), _judged(connection, prefer)
    if eligible == 0:
        ties = fetch_count(connection, "pairs") - judged
        raise RunError(
            f"no pair of {run.root} can be ranked: {ties:,} are ties, {judged:,} lack an image (see the table "
            f"`dropped`) or a finite score of {' or '.join(psi.weights)}"
        )
    if eligible > judged:
        raise RunError(f"{run.table('scores')} holds some scores more than once; run `curate embed` again")


def _judged(connection: duckdb.DuckDBPyConnection, prefer: str) -> int:
    """Pairs that have a preference; a rule judges them all."""
    return int(fetch(connection, f"select count({'preference' if prefer == HUMAN else '*'}) from pairs")[0][0])


def _check_raw(connection: duckdb.DuckDBPyConnection, psi: Psi) -> None:
    """psi without normalisation is a score in [0, 1] only if the scores are."""
    if psi.norm != "raw":
        return
    for scorer, least, greatest in fetch(connection, query_text("rank/score_ranges", scorer=sorted(psi.weights))):
        if not (least >= 0 and greatest <= 1):
            raise UsageError(
                f"--psi-norm raw: {scorer} runs from {least:.4g} to {greatest:.4g}, outside [0, 1]; "
                "use --psi-norm percentile or minmax"
            )


def _check_base(connection: duckdb.DuckDBPyConnection, base: int, metric: Metric) -> None:
    if base:
        return
    found = fetch(connection, "select reason, count(*) from left_out group by reason order by 2 desc, reason")
    left = fetch_count(connection, "eligible") - sum(count for _, count in found)
    if left == 0:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in found)
        raise UsageError(f"no pair is left to rank; loosen the filters, which set aside: {counts}")
    raise QueryError(
        f"{metric.path}: it gave none of the {left:,} pairs{' that the filters leave' * bool(found)} a quality"
    )


def _write_ranking(connection: duckdb.DuckDBPyConnection, path: Path, scorers: list[str], selection: Selection) -> None:
    # As parameters: DuckDB imports pandas, half a second, before it looks at a table of ours.
    passed = {"ranks": list(selection.passed_over), "reasons": list(selection.passed_over.values())}
    unnested = "select unnest($ranks::bigint[]) as rank, unnest($reasons::varchar[]) as reason"
    connection.execute(f"create temp table passed_over as {unnested}", passed)
    for done in ("metric_result", "left_out", "not_ranked", "scored_rows", "psi"):
        connection.execute(f"drop table {done}")  # the widest sort is to come: it needs their memory
    values = {"last_rank": selection.last_rank, "base_pairs": fetch_count(connection, "ranked")}
    schema = tables.with_margins(tables.RANKING, scorers)
    copy_query(connection, query_text("rank/ranking", scorer=scorers), values, path, schema)


def _write_dropped(
    connection: duckdb.DuckDBPyConnection, run: Run, options: RankOptions, pairs: int, base: int
) -> dict[str, int]:
    """dropped/rank-<name>.parquet: the pairs that are not ranked; their counts by reason."""
    name, eligible, judged = options.name, fetch_count(connection, "eligible"), _judged(connection, options.prefer)
    connection.execute("create temp table not_ranked as from left_out")
    for query, needed in (
        ("rank/dropped_ties", judged < pairs),
        ("rank/dropped_unscored", eligible < judged),
        ("rank/dropped_unmeasured", base + fetch_count(connection, "left_out") < eligible),
    ):
        if needed:  # each compares all pairs with others, and most runs need the first only
            text = query_text(query)
            if options.prefer != HUMAN:  # who was not judged by people may be by a rule
                text = text.replace("where preference is not null", "")
            connection.execute(f"insert into not_ranked\n{text}")
    connection.execute("create temp table reasons (reason varchar, detail varchar)")
    connection.executemany("insert into reasons values (?, ?)", list(PAIR_REASONS.items()))
    path = run.table("dropped") / f"rank-{name}.parquet"
    copy_query(connection, query_text("rank/dropped_by_rank"), {"stage": f"rank {name}"}, path, tables.DROPPED)
    return dict(fetch(connection, "select reason, count(*) from not_ranked group by reason order by reason"))


def _close_and_write_database(connection: duckdb.DuckDBPyConnection, run: Run) -> None:
    """Both at once: to give the tables' memory back takes as long as to write the views."""
    closing = threading.Thread(target=connection.close)
    closing.start()
    try:
        write_database(run)
    finally:
        closing.join()


def _quality_at(connection: duckdb.DuckDBPyConnection, rank: int) -> float:
    return float(fetch(connection, "select quality from ranked where rank = $rank", {"rank": rank})[0][0])


def _coverage(connection: duckdb.DuckDBPyConnection, ranking: Path, prompts: Prompts | None) -> dict[str, Any]:
    """Prompts kept; and, where prompts were compared anyway, groups of near-duplicates and topics."""
    file = parquet_rows(ranking.resolve())
    found = prompt_coverage(connection, file)
    if prompts is None:
        return found
    selected = {row[0] for row in fetch(connection, f"select distinct prompt_id from {file} where selected")}
    if prompts.group:
        groups, kept = set(prompts.group.values()), {prompts.group[prompt_id] for prompt_id in selected}
        found |= {"groups": len(groups), "selected_groups": len(kept)}
    return found | topic_coverage(prompts, selected)
