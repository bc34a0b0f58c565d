"""How fast things are, beside what a user would pick instead."""
