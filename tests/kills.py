"""How often a test kills a command at random moments: `KILLS=20 make oracle` before a release, fewer in CI."""

import os

KILLS = int(os.environ.get("KILLS", "6"))
