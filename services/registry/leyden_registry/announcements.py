"""From rows to the messages of the models topic.

Event ids derive from the rows, so announcing again repeats them.
"""

from leyden_registry.values import AliasMove, Version
from leyden_schemas import AliasMoved, ModelPublished, cause_id


def model_published(version: Version) -> ModelPublished:
    """The announcement of a version."""
    return ModelPublished(
        event_id=cause_id("model_published", version.version_id),
        tenant=version.tenant,
        run=version.run,
        policy=version.policy,
        version=version.version,
        occurred_at=version.published_at,
        artifact=version.artifact.uri,
        digest=version.artifact.digest,
        kind=version.kind,
        tokenizer_digest=version.artifact.tokenizer_digest,
        chat_template_digest=version.artifact.chat_template_digest,
        parent=version.parent,
        step=version.step,
        prompt_version=version.prompt_version,
        sampling_defaults=version.sampling_defaults,
        metrics=version.metrics,
    )


def alias_moved(move: AliasMove) -> AliasMoved:
    """The announcement of a move."""
    return AliasMoved(
        event_id=cause_id("alias_moved", move.policy, move.alias, move.move_id),
        tenant=move.tenant,
        run=move.run,
        policy=move.policy,
        version=move.version,
        occurred_at=move.moved_at,
        alias=move.alias,
        previous=move.previous,
        reason=move.reason,
        weight=move.weight,
    )
