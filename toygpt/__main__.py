"""`python -m toygpt`: see cli.py."""

import sys

from toygpt.cli import main

sys.exit(main(program="python -m toygpt"))
