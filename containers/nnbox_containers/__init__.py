"""Submission images: organisers' contracts, the container engine, and the build of an image from a bundle."""
