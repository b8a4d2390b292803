"""What a comparison reads: results, segmentations, logs and traces."""
