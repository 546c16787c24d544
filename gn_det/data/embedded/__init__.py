"""The embedded detection dataset, photo digits."""
