"""The training loop and what it is made of: optimiser, state and step, data placement, checkpoints, metrics."""
