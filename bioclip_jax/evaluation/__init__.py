"""Evaluation: what a model knows, with intervals, chance and a baseline beside every figure."""
