"""``python -m leyden_reward``."""

from leyden_platform.service import collect_rarely, main
from leyden_reward.app import build
from leyden_reward.settings import RewardSettings

collect_rarely()
main("reward", RewardSettings, build)
