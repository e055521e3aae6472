"""The contenders: every way to train the same network."""
