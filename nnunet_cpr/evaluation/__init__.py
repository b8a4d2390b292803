"""From finished nnU-Net trainings to numbers, tables and figures."""
