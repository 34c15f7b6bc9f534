"""The run directory as mappings and files. Needs no torch."""
