"""What `curate review` prints."""

from typing import Any

from curate.compare.stdout import p_value, rate


def review_lines(done: dict[str, Any]) -> list[str]:
    """How far one reviewer has come; not who wins, which would not be blind."""
    if done["manifest"] is None:
        return [f"{done['reviewer']}: nothing judged yet of {done['pairs']:,} pairs"]
    return [
        f"{done['reviewer']}: {done['judged']:,} of {done['pairs']:,} pairs judged",
        f"written  {done['manifest']}; `curate review --report` says who wins",
    ]


def reviewed_lines(report: dict[str, Any]) -> list[str]:
    """Reviewers, how far they agree, and whose pictures they prefer."""
    lines = [f"{'reviewer':<16}{'judged':>8}{'ties':>7}{'both bad':>10}{'left':>9}{'median time':>13}"]
    for item in report["reviewers"]:
        left = "-" if item["left_share"] is None else f"{100 * item['left_share']:.1f} %"
        seconds = f"{item['median_seconds']:.1f} s"
        lines.append(
            f"{item['reviewer']:<16}{item['judged']:>8,}{item['ties']:>7,}{item['both_bad']:>10,}{left:>9}{seconds:>13}"
        )
    for item in report["agreement"]:
        alike = "-" if item["alike"] is None else f"{100 * item['alike']:.1f} %"
        kappa = "-" if item["kappa"] is None else f"{item['kappa']:+.3f}"
        pair = " and ".join(item["reviewers"])
        lines.append(f"{pair}: {alike} alike of {item['pairs']:,} pairs that both judged, Cohen's kappa {kappa}")
    for v in report["verdicts"]:
        lines.append(
            f"{v['model']} against {v['against']}: {rate(v).strip()} of {v['judgements']:,} judgements over "
            f"{v['prompts']:,} prompts, sign test {p_value(v).strip()}"
        )
    return [*lines, f"written  {report['manifest']}"]
