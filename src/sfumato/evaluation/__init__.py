"""Scores with floor, interval and protocol: `score(samples, reference, protocol)`."""
