"""Worked examples that run with no download."""
