"""GSPO (Zheng et al. 2025): one ratio per completion, whose bounds are therefore a hundred times narrower."""

from leyden_learner.recipes.base import Recipe

GSPO = Recipe(loss="gspo", aggregation="rollout", clip_low=3e-4, clip_high=4e-4, dual_clip=float("inf"))
