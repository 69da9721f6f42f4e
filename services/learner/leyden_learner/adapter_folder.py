"""Folders that hold an adapter and no model: what peft calls their files, and whose weights they lie over.

Free of torch.
"""

import json
from pathlib import Path
from typing import Any

from leyden_platform.artifacts import artifact_path
from leyden_platform.objects import is_object_url

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BASE = "base_model_name_or_path"


def is_adapter(folder: Path) -> bool:
    """Whether a checkpoint is an adapter."""
    return (folder / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """What an adapter says of itself. Raises ``OSError`` and ``ValueError``."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    return config


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Sets, whose order changes from process to process, are sorted: the digest is of the content."""
    sorted_sets = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    (folder / CONFIG).write_text(json.dumps(sorted_sets, indent=2, sort_keys=True) + "\n")


def name_base(folder: Path, artifact: str) -> None:
    """Let the adapter name the place of its base, where peft and transformers look for it."""
    place = artifact if is_object_url(artifact) else str(artifact_path(artifact))
    write_config(folder, read_config(folder) | {_BASE: place})
