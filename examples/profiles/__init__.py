"""Profiles of machines that one may not have at hand, and the formulas they come from."""
