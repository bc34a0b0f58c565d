"""What every stage shares: parameters, paths, files, errors, the process."""
