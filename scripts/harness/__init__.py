"""What the benchmark scripts share: settings, optimizers, the folder of a run."""
