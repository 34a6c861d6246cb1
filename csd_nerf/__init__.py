"""Text-instructed editing of 3D scenes by Collaborative Score Distillation."""
