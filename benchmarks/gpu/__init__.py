"""All that needs a GPU, in one call: see :mod:`.command`."""
