"""toyGPT: a GPT to read in an afternoon, inside a pipeline to trust."""
