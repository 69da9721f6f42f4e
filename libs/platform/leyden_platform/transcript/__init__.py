"""Steps of open rollouts in little memory: what a turn adds, packed, and whole when somebody looks.

Reward and credit hold thousands of rollouts; docs/adr/0011 says why in this form.
"""

from leyden_platform.transcript.compression import TEXTS
from leyden_platform.transcript.transcript import Transcript

__all__ = ["TEXTS", "Transcript"]
