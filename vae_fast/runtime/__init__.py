"""The machine that a run executes on, and the processes that share the run."""
