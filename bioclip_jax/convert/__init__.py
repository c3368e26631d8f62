"""Weights in other people's formats: one table of names, applied in both directions."""
