"""The network: what it is, and how it is kept on disk."""
