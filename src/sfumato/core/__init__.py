"""What every room stands on: configuration, images, random streams, processes, files."""
