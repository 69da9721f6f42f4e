"""Steps of open rollouts in little memory: what a turn adds, packed, and whole when somebody looks.

Reward and credit hold thousands of rollouts; docs/adr/0011 says why in this form.
"""

from leyden_platform.transcript.packing import expanded, squeezed
from leyden_platform.transcript.transcript import Transcript

__all__ = ["Transcript", "expanded", "squeezed"]
