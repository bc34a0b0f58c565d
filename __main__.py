"""`python .` in the project's folder: see toygpt/cli/."""

import sys

from toygpt.cli import main

sys.exit(main(program="python ."))
