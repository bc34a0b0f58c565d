"""Pages in HTML: one file each, which loads nothing and runs its own script alone."""
