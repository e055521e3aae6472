"""Trained models: opened, measured, and what they generate."""
