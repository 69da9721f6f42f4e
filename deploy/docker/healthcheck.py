"""The image's health check: asks the operations port and exits 0 only for a 2xx answer.

``python healthcheck.py [/healthz|/readyz]``; the port is ``LEYDEN_OPS_PORT``, 9100 unless set.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 3.0


def check(path: str, port: int) -> str | None:
    """Why the service is not healthy, or None."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"{path}: {error.code} {error.read(2048).decode('utf-8', 'replace').strip()}"
    except OSError as error:
        return f"{path}: {error}"


if __name__ == "__main__":
    probe = sys.argv[1] if len(sys.argv) > 1 else "/healthz"
    sys.exit(check(probe, int(os.environ.get("LEYDEN_OPS_PORT", "9100"))))
