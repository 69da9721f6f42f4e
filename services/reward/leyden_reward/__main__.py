"""``python -m leyden_reward``."""

from leyden_platform.service import main
from leyden_reward.app import build
from leyden_reward.settings import RewardSettings

main("reward", RewardSettings, build)
