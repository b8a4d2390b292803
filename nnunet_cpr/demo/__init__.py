"""`nnunet-cpr demo`: from data to a comparison of CPR with weight decay, through nnU-Net's own commands."""
