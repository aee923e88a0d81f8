"""The stages, one module each: what is built, what is minimised, what is measured."""
