"""nnU-Net trainers with Constrained Parameter Regularization: what their names mean, and what they do."""
