"""Run the gateway: ``python -m leyden_gateway``."""

from leyden_gateway.app import build
from leyden_gateway.settings import GatewaySettings
from leyden_platform.service import main

if __name__ == "__main__":
    main("gateway", GatewaySettings, build)
