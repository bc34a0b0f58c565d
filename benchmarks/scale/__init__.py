"""What it takes to train on a corpus that no machine holds: see `__main__.py`."""
