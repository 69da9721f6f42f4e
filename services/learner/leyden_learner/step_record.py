"""What a checkpoint says of its own step: where it came from, what was measured, where the log goes on.

A copy, for people and for a checkpoint that is all that is left. What a learner resumes from is the row in
Postgres, which is written in one transaction with the rollouts that the step trained.
"""

import json
from pathlib import Path

from leyden_learner.repository import Checkpoint
from leyden_platform.artifacts import TRAINER_STATE

STEP_RECORD = "step.json"


def write_step_record(folder: Path, checkpoint: Checkpoint, *, policy: str, run: str) -> None:
    """Beside the trainer's state, which is no part of what is served. Raises ``OSError``."""
    own = folder / TRAINER_STATE
    own.mkdir(exist_ok=True)
    record = {
        "policy": policy,
        "run": run,
        "step": checkpoint.step,
        "version_id": str(checkpoint.version_id),
        "parent": checkpoint.parent,
        "kind": checkpoint.kind.value,
        "base": checkpoint.base,
        "base_version": checkpoint.base_version,
        "offsets": {str(partition): offset for partition, offset in sorted(checkpoint.offsets.items())},
        "turns": checkpoint.turns.as_json(),
        "metrics": checkpoint.metrics,
    }
    (own / STEP_RECORD).write_text(json.dumps(record, indent=1) + "\n")
