"""Draws several runs into one picture: ``python -m leyden_local.demo.curves OUT.png SUMMARY.json …``."""

import sys
from pathlib import Path

import matplotlib as mpl

from leyden_local.demo.summary import Summary

mpl.use("Agg")


def draw(summaries: list[Summary], path: Path) -> None:
    """Training reward by step for each run, and held-out success before and after."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), dpi=110, width_ratios=(2, 1))
    for summary in summaries:
        points = [point for point in summary.curve if point.reward is not None]
        left.plot([p.version for p in points], [p.reward for p in points], label=f"seed {summary.seed}")
        for mode, style in (("greedy", "-o"), ("sampled", "--s")):
            values = [summary.success(when, mode).success for when in ("before", "after")]
            right.plot(["before", "after"], values, style, color=left.lines[-1].get_color(), alpha=0.8)
    left.set(xlabel="policy version", ylabel="mean reward of its rollouts", ylim=(0, 1.02), title="training")
    right.set(ylim=(0, 1.02), title="held out (solid greedy, dashed sampled)")
    left.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    draw([Summary.model_validate_json(Path(name).read_bytes()) for name in sys.argv[2:]], Path(sys.argv[1]))
