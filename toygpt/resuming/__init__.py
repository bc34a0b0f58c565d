"""How no training is lost."""
