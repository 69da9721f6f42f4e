"""``python -m leyden_credit``."""

from leyden_credit.app import build
from leyden_credit.settings import CreditSettings
from leyden_platform.service import collect_rarely, main

collect_rarely()
main("credit", CreditSettings, build)
