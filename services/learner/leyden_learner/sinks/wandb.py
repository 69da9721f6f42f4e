"""Weights & Biases, online or into a folder for ``wandb sync``. The API key is wandb's own setting."""

from pathlib import Path
from typing import Literal

import wandb

from leyden_learner.sinks.base import Point, RunInfo


class WandbSink:
    """The run that has this run's id, so that a resumed learner goes on with it."""

    def __init__(
        self,
        info: RunInfo,
        *,
        project: str,
        entity: str | None,
        mode: Literal["online", "offline"],
        folder: Path,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._offline = mode == "offline"
        self._run = wandb.init(
            project=project,
            entity=entity,
            id=info.id,
            name=info.name,
            resume="allow",
            mode=mode,
            dir=str(folder),
            config=dict(info.config),
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, point: Point) -> None:
        """A row of history. Offline nobody knows what earlier processes wrote, so nothing is repeated."""
        if point.step < self._run.step or (point.again and self._offline):
            return
        self._run.log(dict(point.metrics), step=point.step)

    def close(self) -> None:
        """Upload, or finish the file."""
        self._run.finish()
