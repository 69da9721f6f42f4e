"""Writes what a replay found: ``replay.json``, ``rewards.png`` and a self-contained ``report.html``."""

import base64
import contextlib
import tempfile
from pathlib import Path

from leyden_replay.statistics import sign
from leyden_replay.summary import Summary
from leyden_replay.tables import headline, tables

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_MOST_POINTS = 5_000


class ReportFailed(RuntimeError):
    """The report cannot be written; the text says where and what to do."""


def prepare(folder: Path) -> None:
    """Create ``folder`` and see that files can be written into it. Raises ``ReportFailed``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ReportFailed(f"the report cannot be written to {folder}: {error}; choose --reports") from error


def discard(folder: Path) -> None:
    """Delete the folder when nothing was written into it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def write(summary: Summary, folder: Path) -> list[Path]:
    """Write what can be: without matplotlib and jinja2 (``leyden[replay]``) it is the JSON alone.

    Raises ``ReportFailed``.
    """
    try:
        written = [folder / "replay.json"]
        written[0].write_text(summary.model_dump_json(indent=1) + "\n")
        try:
            import jinja2
            import matplotlib as mpl
        except ImportError:
            return written
        mpl.use("Agg")
        picture = folder / "rewards.png"
        drawn = summary.comparison is not None and bool(summary.comparison.pairs)
        if drawn:
            plot(summary, picture)
            written.append(picture)
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        html = environment.from_string(_TEMPLATE.read_text()).render(
            summary=summary,
            headline=headline(summary),
            tables=tables(summary),
            picture=base64.b64encode(picture.read_bytes()).decode() if drawn else None,
        )
        (folder / "report.html").write_text(html)
        return [*written, folder / "report.html"]
    except OSError as error:
        raise ReportFailed(f"the report could not be written to {folder}: {error}") from error


def plot(summary: Summary, path: Path) -> None:
    """Final rewards before and after: how each is spread, and rollout against rollout."""
    from matplotlib import pyplot as plt

    assert summary.comparison is not None
    pairs = summary.comparison.pairs
    before, after = [was for was, _ in pairs], [now for _, now in pairs]
    figure, (spread, each) = plt.subplots(1, 2, figsize=(10, 4.5), dpi=110)
    low, high = min(before + after), max(before + after)
    margin = 0.0 if sign(low, high) else max(0.5, abs(high) / 2)
    edges = (low - margin, high + margin)
    spread.hist([before, after], bins=20, range=edges, label=["before (live)", "after (replay)"])
    spread.set(xlabel="final reward", ylabel="rollouts", title="Distribution")
    spread.legend()
    shown = pairs[:: max(1, len(pairs) // _MOST_POINTS)]
    each.scatter([was for was, _ in shown], [now for _, now in shown], s=12, alpha=0.4)
    each.plot(edges, edges, linewidth=1, color="0.5")
    each.set(xlabel="before (live)", ylabel="after (replay)", title="Rollout by rollout")
    for axes in (spread, each):
        axes.grid(alpha=0.3)
    figure.suptitle(f"Replay {summary.name}: {len(pairs)} rollouts")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
