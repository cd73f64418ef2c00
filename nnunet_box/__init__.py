"""nnU-Net as its 2019 preprint describes it, from a challenge download to a submission image."""

__version__ = "0.1.0"
