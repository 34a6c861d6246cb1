"""Text-instructed editing of 3D scenes, videos and panoramas by Collaborative Score Distillation."""
