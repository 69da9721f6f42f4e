"""GRPO (Shao et al. 2024, DeepSeekMath): PPO's clipped loss, averaged over tokens, then over rollouts.

A rollout is the paper's response and counts the same however many rows it was cut into. The upper bound is
DAPO's wider one, under which entropy lasts longer; set ``clip_high`` to 0.2 for the paper's.
"""

from leyden_learner.recipes.base import Recipe

GRPO = Recipe(loss="ppo_clip", aggregation="rollout", clip_low=0.2, clip_high=0.28)
