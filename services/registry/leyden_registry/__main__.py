"""``python -m leyden_registry``."""

from leyden_platform.service import main
from leyden_registry.app import build
from leyden_registry.settings import RegistrySettings

main("registry", RegistrySettings, build)
