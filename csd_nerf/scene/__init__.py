"""The editing stage of a 3D scene, independent of how the scene is represented."""
