"""Text-to-3D by several distillations, measured."""
