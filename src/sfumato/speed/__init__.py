"""Performance plans, the search that times them, memory; `kernels/` holds own kernels."""
