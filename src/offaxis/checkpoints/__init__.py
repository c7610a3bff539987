"""From disk to tensors, one matrix at a time; one file per format."""
