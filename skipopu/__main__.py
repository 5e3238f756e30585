"""``python -m skipopu``."""

import sys

from skipopu.cli import main

sys.exit(main())
