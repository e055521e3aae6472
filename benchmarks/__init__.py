"""Benchmarks that anyone can run again."""
