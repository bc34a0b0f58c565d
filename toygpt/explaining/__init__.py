"""See it think: a page on what a model does with a text, number by number."""

# Tokens that the model adds to the prompt of a page: more would hide the steps.
NEW_TOKENS = 8
