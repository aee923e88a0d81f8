"""The codec: bundles, layers, `.pin` files and bit-exact entropy coding."""
