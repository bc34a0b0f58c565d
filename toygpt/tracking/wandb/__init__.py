"""A run in Weights & Biases, and its files on disk."""
