"""What step-level credit is worth: one agent trained under several estimators, on the services' own parts.

The examples that are trained are no package; importing this one makes them importable.
"""

import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

if str(EXAMPLES) not in sys.path:
    sys.path.append(str(EXAMPLES))
