"""CSD-Edit on Gaussian splats: a method of ns-train, on nerfstudio's splatfacto."""
