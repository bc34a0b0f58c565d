"""The six stages of the pipeline, each run as `python -m stages.NAME`."""

import sys

# `python -m stages.NAME` imports this package before the stage itself, and names the
# script "-m" meanwhile. A program that merely imports a stage runs nothing.
if sys.argv[0] == "-m":
    from toygpt.pipeline.stage import prepare

    prepare()
