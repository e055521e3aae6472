"""The harness for measuring: rounds, floors, metadata and the time budget."""
