"""Published objectives by name: which loss, with which bounds, and how its tokens are added up. One a file.

Free of torch, so that a wrong name is refused before anything is loaded. What a recipe says is what a setting
left open; every part can be set by itself.
"""

from leyden_learner.recipes.base import Recipe
from leyden_learner.recipes.cispo import CISPO
from leyden_learner.recipes.dapo import DAPO
from leyden_learner.recipes.dr_grpo import DR_GRPO
from leyden_learner.recipes.grpo import GRPO
from leyden_learner.recipes.gspo import GSPO

RECIPES = {"grpo": GRPO, "dr_grpo": DR_GRPO, "dapo": DAPO, "gspo": GSPO, "cispo": CISPO}

__all__ = ["RECIPES", "Recipe"]
