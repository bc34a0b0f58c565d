"""The network: what it is, how it is kept on disk, how it writes text."""
