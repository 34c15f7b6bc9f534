"""The networks: each a config with `build(...)` and a module."""
