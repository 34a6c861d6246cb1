"""How a panorama or a video becomes particles and comes back; imports nothing heavy itself."""
