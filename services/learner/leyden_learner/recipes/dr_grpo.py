"""Dr. GRPO (Liu et al. 2025): tokens divided by a constant, so that long wrong rollouts are not favoured.

Its advantages are those of the credit service's estimator ``dr_grpo``; ``fixed_length`` is the constant.
"""

from leyden_learner.recipes.base import Recipe

DR_GRPO = Recipe(loss="ppo_clip", aggregation="fixed_length", clip_low=0.2, clip_high=0.2)
