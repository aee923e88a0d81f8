"""Makes bundles: data, losses, stages, quantisation, export, and the loaders of the official checkpoint."""
