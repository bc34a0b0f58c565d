"""How the network continues a text."""
