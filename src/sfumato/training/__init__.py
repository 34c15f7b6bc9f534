"""The trainer, its hooks, optimizers, weight averages, checkpoints, distribution."""
