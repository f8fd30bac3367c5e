"""The `curate` command line: parse, call a stage, report. Heavy packages load inside the commands."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from curate.errors import CurateError, UsageError
from curate.lines import (
    check_lines,
    compare_lines,
    diff_lines,
    embed_lines,
    json_text,
    metrics_lines,
    rank_lines,
    report_lines,
    search_lines,
)
from curate.manifest import DEMO, Manifest, load_manifest
from curate.model_set import DEFAULT_SCORERS, load_model_set
from curate.progress import say
from curate.run import Run

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Score the pairs of a preference data set, rank them by a SQL metric, and pack the best as shards.",
)

RunOption = Annotated[str, typer.Option("--run", help="Run directory.", envvar="PAIRSIEVE_RUN", show_default=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def main() -> None:
    """Entry point: an expected failure becomes one sentence on stderr; anything else keeps its traceback."""
    # Before torch loads: its waiting CPU threads sleep instead of spin. Where other work shares the cores,
    # spinning made small models ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="curate")
    except CurateError as error:
        say(f"curate: {error}")
        sys.exit(error.exit_code)


@app.command(short_help="Score every image and prompt of a data set once.")
def embed(
    run: RunOption = "run",
    manifest: Annotated[str, typer.Option(help="Data set: a bundled name, or a TOML file.")] = DEMO,
    source: Annotated[
        list[str] | None, typer.Option(help="Path, glob or URL instead of the manifest's files; repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the manifest.  [default: the manifest's]")] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Set of models: a bundled name, or a TOML file.  [default: the manifest's, else published]"),
    ] = None,
    scorers: Annotated[str, typer.Option(help="Scorers, by name, with commas.")] = ",".join(DEFAULT_SCORERS),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    batch: Annotated[int, typer.Option(help="Images of one forward pass.", min=1)] = 64,
    part_images: Annotated[int, typer.Option(help="Images of one part, the unit of resuming.", min=1)] = 1024,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and counts; compute nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score every image and prompt of a data set once, and write the run's tables.

    Example: curate embed --manifest pickapic_v2 --source 'train-*.parquet'
    """
    from curate.plan import make_plan
    from curate.source import open_source

    described = _manifest(manifest)
    opened = open_source(described, split, source)
    model_set = load_model_set(models or described.models or "published")
    chosen = model_set.choose([name.strip() for name in scorers.split(",") if name.strip()])
    if dry_run:
        settings = {
            "manifest": described.settings(),
            "split": opened.split,
            "files": list(opened.files),
            "models": model_set.name,
            "scorers": [spec.name for spec in chosen],
        }
        _print(settings | make_plan(opened, part_images).counts(), as_json)
        return

    from curate.scoring import load_scoring
    from curate.stages.embed import EmbedOptions, source_settings
    from curate.stages.embed import embed as run_embed
    from curate.towers.precision import choose_device, choose_precision, describe_device

    on = choose_device(device)
    options = EmbedOptions(on, choose_precision(precision, on), batch, part_images)
    Run(Path(run)).refuse_other(source_settings(opened, options))  # before minutes go into loading weights
    names = ", ".join(spec.name for spec in chosen)
    say(f"models '{model_set.name}', scorers {names}, on {describe_device(on, options.precision)}")
    scoring = load_scoring(model_set, chosen, on, options.precision)
    summary = run_embed(Run(Path(run)), opened, scoring, options)
    _print(summary, as_json, embed_lines(summary))


def _manifest(name: str) -> Manifest:
    if name == DEMO:
        say("data set: the bundled demo, a miniature world of coloured shapes (--manifest names another)")
    return load_manifest(name)


def _print(report: dict[str, Any], as_json: bool, lines: list[str] | None = None) -> None:
    if as_json or lines is None:
        typer.echo(json_text(report))
    else:
        typer.echo("\n".join(lines))


@app.command(short_help="Rank the pairs by a SQL metric and select the top.")
def rank(
    run: RunOption = "run",
    top: Annotated[str, typer.Option(help="Fraction of the ranked pairs (0.0533), or a count (5000).")] = "0.0533",
    metric: Annotated[
        str, typer.Option(help="A metric that `curate metrics` lists, or a .sql file that returns pair_id, quality.")
    ] = "qsd",
    param: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of a parameter of the metric; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same as --param seed=N, for the metric random.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Worst first: the bottom is selected.")] = False,
    psi: Annotated[str, typer.Option(help="One scorer, or a blend: clip=2,pickscore=1.")] = ",".join(DEFAULT_SCORERS),
    psi_norm: Annotated[
        str, typer.Option(help="How scores are brought to [0, 1]: percentile, minmax or raw.")
    ] = "percentile",
    name: Annotated[str, typer.Option(help="Name of the ranking; several live side by side.")] = "default",
    where: Annotated[
        str | None, typer.Option(help="Rank only pairs that meet this SQL condition over pair_facts.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Rank only pairs of this split.")] = None,
    min_score: Annotated[
        list[str] | None, typer.Option(help="SCORER=VALUE that the preferred image must reach; repeatable.")
    ] = None,
    min_annotator_agreement: Annotated[
        float | None, typer.Option(help="Leave out annotators who agree less often with the calibrated score (0.55).")
    ] = None,
    max_nsfw: Annotated[float | None, typer.Option(help="Greatest nsfw score of either image.")] = None,
    max_per_prompt: Annotated[int | None, typer.Option(help="Most selected pairs of one prompt.")] = None,
    max_per_image: Annotated[int | None, typer.Option(help="Most selected pairs with one image.")] = None,
    max_per_annotator: Annotated[int | None, typer.Option(help="Most selected pairs of one annotator.")] = None,
    near_duplicates: Annotated[
        float | None, typer.Option(help="Cosine from which prompts count as one for --max-per-prompt (0.95).")
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(help="Weight, 0 to 1, of a prompt's distance to those chosen, against quality.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory of the database before it spills to disk, such as 8GB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the pairs by a quality metric in SQL and select the top.

    Example: curate rank --top 0.0533 --metric qsd --psi hpsv2
    """
    from curate.filters import Filters
    from curate.selection import Limits
    from curate.stages.rank import RankOptions, parse_psi
    from curate.stages.rank import rank as run_rank

    options = RankOptions(
        parse_psi(psi, psi_norm),
        _identifier(name),
        metric,
        (*(param or ()), *(() if seed is None else (f"seed={seed}",))),
        top,
        reverse,
        Filters(where, split, _minimum_scores(min_score or []), min_annotator_agreement, max_nsfw),
        Limits(max_per_prompt, max_per_image, max_per_annotator, near_duplicates, diversity),
        memory,
    )
    report = run_rank(Run(Path(run)), options)
    _print(report, as_json, rank_lines(report, run))


def _minimum_scores(terms: list[str]) -> dict[str, float]:
    found = {}
    for term in terms:
        scorer, _, value = term.partition("=")
        if scorer in found:
            raise UsageError(f"--min-score {term}: '{scorer}' is given twice")
        try:
            found[scorer] = float(value)
        except ValueError as error:
            raise UsageError(f"--min-score {term}: write SCORER=VALUE, such as clip=0.2") from error
    return found


metrics_app = typer.Typer(
    rich_markup_mode=None,
    help="List the metrics that `curate rank` ships, or check one of your own.\n\nExample: curate metrics",
)
app.add_typer(metrics_app, name="metrics", short_help="List the shipped metrics, or check one of your own.")


@metrics_app.callback(invoke_without_command=True)
def metrics(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the shipped metrics with their source and parameters.

    Example: curate metrics
    """
    if context.invoked_subcommand is not None:
        return
    from curate.stages.metrics import list_metrics

    found = list_metrics()
    _print({"metrics": found}, as_json, metrics_lines(found))


@metrics_app.command(short_help="Run a metric of your own on a run and say what it does.")
def check(
    file: Annotated[str, typer.Argument(help="A .sql file that returns pair_id, quality.")],
    run: RunOption = "run",
    param: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of a parameter; repeatable.")] = None,
    psi: Annotated[str, typer.Option(help="One scorer, or a blend: clip=2,pickscore=1.")] = ",".join(DEFAULT_SCORERS),
    psi_norm: Annotated[str, typer.Option(help="percentile, minmax or raw.")] = "percentile",
    as_json: JsonOption = False,
) -> None:
    """Run a metric on a run: columns, nulls, ties, range, and how like the shipped metrics it ranks.

    Example: curate metrics check my_metric.sql
    """
    from curate.stages.metrics import check_metric
    from curate.stages.rank import parse_psi

    report = check_metric(Run(Path(run)), file, tuple(param or ()), parse_psi(psi, psi_norm))
    _print(report, as_json, check_lines(report))


@app.command(short_help="Say how two rankings differ.")
def diff(
    one: Annotated[str, typer.Argument(help="Name of a ranking.")],
    two: Annotated[str, typer.Argument(help="Name of another.")],
    run: RunOption = "run",
    moved: Annotated[int, typer.Option(help="How many of the pairs that moved most to show.", min=0)] = 10,
    as_json: JsonOption = False,
) -> None:
    """Say how two rankings differ: what both select, their rank correlation, the pairs that moved most.

    Example: curate diff default paper
    """
    from curate.stages.diff import diff as run_diff

    report = run_diff(Run(Path(run)), _identifier(one), _identifier(two), moved)
    _print(report, as_json, diff_lines(report))


@app.command(short_help="Write the selected pairs as WebDataset shards.")
def export_shards(
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the tars and shards.json.  [default: RUN/shards]")
    ] = None,
    pairs_per_shard: Annotated[int, typer.Option(help="Samples of one tar.", min=1)] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Write the selected pairs as WebDataset shards, the source's bytes untouched.

    Example: curate export-shards --name default --output run/shards
    """
    from curate.stages.export_shards import export_shards as run_export

    folder = output or Path(run) / "shards"
    index = run_export(Run(Path(run)), _identifier(name), folder, pairs_per_shard)
    size_mb = sum(entry["bytes"] for entry in index["shards"]) / 1e6
    lines = [f"written  {index['pairs']:,} pairs in {len(index['shards'])} shards, {size_mb:,.1f} MB: {folder}"]
    _print(index, as_json, lines)


@app.command(short_help="Query the run's tables, read-only.")
def sql(
    query: Annotated[
        str | None, typer.Argument(help="SQL over the run's views.  [default: a prompt, or what a pipe brings]")
    ] = None,
    run: RunOption = "run",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
    parquet: Annotated[Path | None, typer.Option(help="Write the result to this Parquet file.")] = None,
) -> None:
    """Query the run's tables (pairs, images, prompts, scores, dropped, pair_scores, ranking) read-only, or at a prompt.

    Example: curate sql "select stage, count(*) from dropped group by stage"
    """
    from curate.stages.query import query as run_query

    forms = csv + as_json + (parquet is not None)
    if forms > 1:
        raise UsageError("give one of --csv, --json and --parquet")
    if query is None and sys.stdin.isatty():
        from curate.stages.shell import interact

        if forms:
            raise UsageError("--csv, --json and --parquet need a query")
        return interact(Run(Path(run)), sys.stdout)
    query = sys.stdin.read() if query is None else query
    run_query(Run(Path(run)), query, "csv" if csv else "json" if as_json else "table", sys.stdout, parquet)


@app.command(short_help="Find the prompts, and their pairs, that are like a text.")
def search(
    text: Annotated[str, typer.Argument(help="What the prompts should be like.")],
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    limit: Annotated[int, typer.Option(help="Most prompts, or pairs, that are shown.", min=1)] = 10,
    pairs: Annotated[bool, typer.Option("--pairs", help="List the pairs instead of the prompts.")] = False,
    tower: Annotated[str | None, typer.Option(help="Whose embeddings.  [default: clip, else the run's first]")] = None,
    models: Annotated[
        str | None, typer.Option(help="Set of models: a bundled name, or a TOML file.  [default: the run's]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the prompts, and their pairs, that are most like a text by the embeddings of one of the run's towers.

    Example: curate search "a red fox" --limit 5
    """
    from curate.stages.search import search as run_search

    found = run_search(Run(Path(run)), text, tower, _identifier(name), models, limit, pairs)
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(search_lines(found)))


def _identifier(name: str) -> str:
    """A ranking's name becomes a view's, so it is a word."""
    if not name.isidentifier():
        raise UsageError(f"{name}: the name of a ranking has letters, digits and _ only, and no digit first")
    return name


@app.command(short_help="Say which of two models wins, by each scorer.")
def compare(
    run: RunOption = "run",
    model: Annotated[str | None, typer.Option(help="The model whose wins are counted.  [default: side 0's]")] = None,
    against: Annotated[
        str | None, typer.Option(help="The model it is compared with.  [default: the other one]")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="HTML page.  [default: RUN/compare.html]")] = None,
    gallery: Annotated[int, typer.Option(help="Pairs that the page shows.", min=0)] = 200,
    as_json: JsonOption = False,
) -> None:
    """Say which of two models wins, by each scorer, with confidence intervals and a page of their pictures.

    Example: curate compare --run run/evaluation
    """
    from curate.stages.compare import compare as run_compare

    report = run_compare(Run(Path(run)), model, against, page, gallery)
    _print(report, as_json, compare_lines(report))


@app.command(short_help="Write one HTML page about a ranking.")
def report(
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    page: Annotated[
        Path | None, typer.Option(help="HTML page.  [default: RUN/report.html, or RUN/report-NAME.html]")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write the charts as one picture, too.")] = False,
    gallery: Annotated[int, typer.Option(help="Pairs that the page shows.", min=0)] = 300,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page about a ranking: counts, distributions, agreement with humans, a gallery.

    Example: curate report --name default --png
    """
    from curate.stages.report import report as run_report

    written = run_report(Run(Path(run)), _identifier(name), page, png, gallery)
    _print(written, as_json, report_lines(written))


@app.command(short_help="Serve the page of a ranking on this machine.")
def browse(
    run: RunOption = "run",
    name: Annotated[str, typer.Option(help="Which ranking.")] = "default",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8765,
) -> None:
    """Serve the page of a ranking on this machine, with every pair in its gallery, until Ctrl-C.

    Example: curate browse --name default
    """
    from curate.stages.browse import browse as run_browse

    run_browse(Run(Path(run)), _identifier(name), port)


if __name__ == "__main__":
    main()
