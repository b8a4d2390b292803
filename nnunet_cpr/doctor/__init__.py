"""`nnunet-cpr doctor`: what this installation has, and what to do about what it lacks."""
