"""What is known of every training: our own record, and the trackers that show it."""
