"""Training of DiffEIC at the paper's scale, on a frozen Stable Diffusion: the sd21 bundle and the paper's ablations."""
