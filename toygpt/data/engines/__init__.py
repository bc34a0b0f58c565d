"""A function is mapped over the shards of a corpus: by processes, Slurm or Ray."""
