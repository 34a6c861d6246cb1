"""The editing stage of a 3D scene, whatever represents the scene."""
