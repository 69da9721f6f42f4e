"""``python -m leyden_runner``."""

from leyden_platform.service import main
from leyden_runner.app import build
from leyden_runner.settings import RunnerSettings

if __name__ == "__main__":
    main("runner", RunnerSettings, build)
