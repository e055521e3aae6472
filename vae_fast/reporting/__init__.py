"""Pictures, pages and text for people."""
