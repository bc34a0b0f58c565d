"""How the network learns, and who is told about it."""
