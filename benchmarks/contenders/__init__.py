"""Who takes part: every way to train the same network."""
