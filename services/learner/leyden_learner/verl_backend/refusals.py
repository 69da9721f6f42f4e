"""Which settings verl's engine and losses cannot follow: each is refused with what to do instead."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leyden_learner.settings import LearnerSettings


def refusal(settings: "LearnerSettings") -> str | None:
    """Why these settings cannot be trained with on verl, or None."""
    recipe = settings.recipe
    if recipe.loss == "gspo" and math.isfinite(recipe.dual_clip):
        return (
            f"dual_clip {recipe.dual_clip:g}: verl's GSPO has none; choose the loss by "
            "LEYDEN_LEARNER_OBJECTIVE=gspo and leave LEYDEN_LEARNER_DUAL_CLIP unset, or set "
            "LEYDEN_LEARNER_BACKEND=torch"
        )
    only_on_torch = {
        "DATA_PARALLEL": settings.data_parallel > 1,
        "EMA_DECAY": settings.ema_decay > 0,
        "COMPILE": settings.compile,
    }
    if chosen := [f"LEYDEN_LEARNER_{name}" for name, wanted in only_on_torch.items() if wanted]:
        return f"{', '.join(chosen)}: not with LEYDEN_LEARNER_BACKEND=verl; leave it unset, or choose torch"
    return None
