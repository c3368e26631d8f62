"""Measures of answers at ranks beyond accuracy."""
