"""`csd-nerf preview`: a sweep over prompts, scales and seeds on a few photographs of a scene."""
