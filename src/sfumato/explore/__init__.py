"""Latent walks, editing, likelihood tables, plots: looking into a trained model."""
