"""CISPO (MiniMax 2025): the ratio is a weight bounded from above alone, and no token loses its gradient."""

from leyden_learner.recipes.base import Recipe

CISPO = Recipe(loss="cispo", aggregation="token", clip_low=1.0, clip_high=4.0, dual_clip=float("inf"))
