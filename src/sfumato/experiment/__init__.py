"""The config of all of it, recipes, building and loading."""
