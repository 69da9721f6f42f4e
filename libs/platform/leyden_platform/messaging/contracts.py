"""Writes the committed contracts: a JSON Schema a topic and one AsyncAPI 3.0 document.

``python -m leyden_platform.messaging.contracts docs/contracts`` refuses to overwrite a schema with one that
is not compatible with it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from faststream.kafka import KafkaBroker
from faststream.specification import AsyncAPI

from leyden_schemas.codec import ADAPTERS
from leyden_schemas.compatibility import incompatibilities, json_schemas
from leyden_schemas.topics import Topics

_DESCRIPTIONS = {
    Topics.TASKS: "Tasks from any producer, and leyden.tasks.v1.<queue> for queues. Key: task_id.",
    Topics.ROLLOUTS: "Rollouts to make, fanned out from tasks. Key: rollout_id.",
    Topics.EVENTS: "What happened in each rollout, in order. Key: rollout_id.",
    Topics.TRAJECTORIES: "Finished rollouts with every reward term. Key: group_id.",
    Topics.RANKINGS: "Finished rollouts to be ranked within their group. Key: group_id.",
    Topics.SAMPLES: "Token rows with per-step advantages. Key: rollout_id.",
    Topics.MODELS: "Published versions and moved aliases; compacted. Key: policy@version or policy#alias.",
    Topics.DEADLETTERS: "Messages that could not be processed, whole. Key: that of the source.",
}


class IncompatibleChange(ValueError):
    """A schema changed beyond adding optional fields; give the topic a new version instead."""


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of every topic, made by FastStream."""
    broker = KafkaBroker("kafka:9092")
    for topic in Topics.ALL:
        broker.publisher(
            topic.name, schema=ADAPTERS[topic.name]._type, title=topic.name, description=_DESCRIPTIONS[topic]
        )
    specification = AsyncAPI(broker, title="Leyden", version="1.0.0", description="The topics of Leyden.")
    document: dict[str, Any] = json.loads(specification.to_specification().to_json())
    return document


def documents() -> dict[str, dict[str, Any]]:
    """File name to content of everything committed."""
    schemas = {f"{name}.schema.json": schema for name, schema in json_schemas().items()}
    return schemas | {"asyncapi.json": asyncapi()}


def write(folder: Path) -> None:
    """Write all documents. Raises ``IncompatibleChange`` before anything is written."""
    current = documents()
    for name, content in current.items():
        path = folder / name
        if path.exists() and name.endswith(".schema.json"):
            changes = incompatibilities(json.loads(path.read_text()), content)
            if changes:
                raise IncompatibleChange(f"{name}: {'; '.join(changes)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in current.items():
        (folder / name).write_text(render(content))


def render(content: dict[str, Any]) -> str:
    """The committed text of a document."""
    return json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
