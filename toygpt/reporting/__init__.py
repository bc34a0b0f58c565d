"""One page on what an experiment changed and whether it is better, for a reviewer."""
