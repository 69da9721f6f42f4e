"""What a step is told by the settings, whichever backend trains it."""

from leyden_learner.objective import ObjectiveConfig
from leyden_learner.schedule import lr_factor
from leyden_learner.settings import LearnerSettings


def objective_config(settings: LearnerSettings) -> ObjectiveConfig:
    """Bounds and weights of the loss."""
    recipe = settings.recipe
    return ObjectiveConfig(
        loss=recipe.loss,
        clip_low=recipe.clip_low,
        clip_high=recipe.clip_high,
        dual_clip=recipe.dual_clip,
        importance=settings.importance,
        importance_low=settings.importance_low,
        importance_cap=settings.importance_cap,
        kl=settings.kl,
        kl_coefficient=settings.kl_coefficient,
    )


def learning_rate(settings: LearnerSettings, step: int) -> float:
    """That of the ``step``-th step, from 0."""
    return settings.lr * lr_factor(
        step,
        warmup_steps=settings.warmup_steps,
        total_steps=settings.total_steps,
        schedule=settings.lr_schedule,
    )
