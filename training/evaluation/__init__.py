"""Measures bundles and other codecs on pictures: rate, quality, time; figures, tables and a page of them."""
