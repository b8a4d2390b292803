"""Batches of trainings: a study in one YAML file, run by Snakemake on one machine or on a SLURM cluster."""
