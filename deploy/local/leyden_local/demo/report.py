"""Writes what a run found: ``summary.json``, ``reward.png`` and a self-contained ``report.html``."""

import base64
import contextlib
import tempfile
from pathlib import Path

import jinja2
import matplotlib as mpl
from rich.table import Table

from leyden_local.demo.log import DemoFailed
from leyden_local.demo.summary import Summary

mpl.use("Agg")
_TEMPLATE = Path(__file__).with_name("report.html.j2")


def prepare(folder: Path) -> None:
    """Create ``folder`` and see that files can be written into it. Raises ``DemoFailed``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DemoFailed(f"the report cannot be written to {folder}: {error}; choose --reports") from error


def discard(folder: Path) -> None:
    """Delete the folder when nothing was written into it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def write(summary: Summary, folder: Path) -> None:
    """Write the three files into ``folder``, which exists. Raises ``DemoFailed``."""
    try:
        _write(summary, folder)
    except OSError as error:
        raise DemoFailed(f"the report could not be written to {folder}: {error}") from error


def _write(summary: Summary, folder: Path) -> None:
    (folder / "summary.json").write_text(summary.model_dump_json(indent=1) + "\n")
    plot(summary, folder / "reward.png")
    picture = base64.b64encode((folder / "reward.png").read_bytes()).decode()
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _TEMPLATE.read_text()
    )
    (folder / "report.html").write_text(template.render(summary=summary, picture=picture))


def plot(summary: Summary, path: Path) -> None:
    """The training curve, with held-out success before and after at its ends."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=110)
    steps = [point.step for point in summary.curve]
    axes.plot(
        steps,
        [float("nan") if point.reward is None else point.reward for point in summary.curve],
        label="training",
    )
    for mode, marker in (("greedy", "o"), ("sampled", "s")):
        results = [summary.success(when, mode) for when in ("before", "after")]
        ends = [0, max(steps, default=0)]
        values = [result.success for result in results]
        errors = [[r.success - r.low for r in results], [r.high - r.success for r in results]]
        axes.errorbar(ends, values, yerr=errors, fmt=marker, capsize=4, label=f"held out, {mode}")
    axes.set(
        xlabel="learner step",
        ylabel="success",
        ylim=(-0.02, 1.02),
        title=f"{summary.policy}, seed {summary.seed}",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def table(summary: Summary) -> Table:
    """Before and after, for the terminal; ``excluded`` are rollouts that failed, before / after."""
    shown = Table(title="Held-out success (95 % interval)")
    for column in ("", "before", "after", "tasks", "excluded"):
        shown.add_column(column)
    for mode in ("greedy", "sampled"):
        before, after = summary.success("before", mode), summary.success("after", mode)
        shown.add_row(
            mode,
            *(f"{e.success:.1%} [{e.low:.1%}, {e.high:.1%}]" for e in (before, after)),
            str(after.trials),
            f"{before.excluded} / {after.excluded}",
        )
    return shown


def timings(summary: Summary) -> Table:
    """Seconds a stage."""
    shown = Table(title="Time")
    shown.add_column("stage")
    shown.add_column("seconds", justify="right")
    for stage, seconds in summary.timings.items():
        shown.add_row(stage, f"{seconds:.1f}")
    return shown
