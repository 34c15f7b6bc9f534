"""Generative adversarial networks: losses, regularizers and the model."""
