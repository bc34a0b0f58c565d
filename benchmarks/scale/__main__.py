"""What does it take to train on a corpus that no machine holds?

    python -m benchmarks.scale               # measures, and computes the plan
    python -m benchmarks.scale --plan        # computes it from what was measured before

Each part leaves a table for docs/scale.md:

stages.py          the data stages with one worker and with two
rates.py           what a core does for each byte, token or block
communication.py   bytes that ranks send one another
plan.py            the formulas by which all this leads to 300 billion tokens, and to 15 TB
"""
