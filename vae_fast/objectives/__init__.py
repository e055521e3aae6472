"""What is minimised, and what is estimated."""
