"""Data in, nnU-Net's raw format out."""
