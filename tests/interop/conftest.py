"""Makes `tiny_torch` importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
