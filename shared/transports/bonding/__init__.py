"""Several links at once for one sender."""
