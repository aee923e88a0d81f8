"""The networks, in torch: DiffEIC's own at any width, and the light ones of the pocket bundle."""
