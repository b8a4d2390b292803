"""How nnunet-cpr connects to nnU-Net."""
