"""Makes `fake_search` importable here and, by path, in subprocesses."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
