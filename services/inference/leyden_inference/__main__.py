"""``python -m leyden_inference``."""

from leyden_inference.app import build
from leyden_inference.settings import InferenceSettings
from leyden_platform.service import main

if __name__ == "__main__":
    main("inference", InferenceSettings, build)
