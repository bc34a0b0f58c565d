"""See it think: a page on what a model does with a text, number by number."""
