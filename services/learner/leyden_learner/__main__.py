"""``python -m leyden_learner``."""

from leyden_learner.app import build
from leyden_learner.settings import LearnerSettings
from leyden_platform.service import main

if __name__ == "__main__":
    main("learner", LearnerSettings, build)
