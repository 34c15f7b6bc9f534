"""Sfumato: trains, samples, evaluates and fairly compares image generative models."""
