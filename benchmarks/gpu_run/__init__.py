"""What a run on another machine's GPU needs."""
