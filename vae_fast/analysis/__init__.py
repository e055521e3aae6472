"""Trained models: opening them, measuring them, and generating images with them."""
