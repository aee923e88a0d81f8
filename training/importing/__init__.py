"""Import of official checkpoints: Stable Diffusion and one or several trained DiffEIC rates become one bundle."""
