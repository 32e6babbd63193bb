"""Makes `gateway_parts` importable: with importlib mode a test's own folder is not on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
