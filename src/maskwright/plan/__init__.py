"""What a recipe needs before it is run: its own stages tried on a few small images, and scaled to all of the data."""
