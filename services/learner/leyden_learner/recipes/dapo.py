"""DAPO (Yu et al. 2025): clip-higher, and every token of a step counts the same.

Dynamic sampling is the credit service's (groups without variance are dropped and counted), overlong
shaping the reward service's (``overlong``).
"""

from leyden_learner.recipes.base import Recipe

DAPO = Recipe(loss="ppo_clip", aggregation="token", clip_low=0.2, clip_high=0.28)
