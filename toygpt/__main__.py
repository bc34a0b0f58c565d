"""`python -m toygpt`: see toygpt/cli/."""

import sys

from toygpt.cli import main

sys.exit(main(program="python -m toygpt"))
