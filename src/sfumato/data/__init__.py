"""Images of any origin, packed as uint8: `catalogue.load(DataConfig(...))` gives the splits."""
