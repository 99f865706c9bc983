"""The substrate's packages are top-level names, as in its own commands."""

import sys
from pathlib import Path

SUBSTRATE = Path(__file__).parents[2] / "substrate" / "default"
sys.path.insert(0, str(SUBSTRATE))
sys.dont_write_bytecode = True
