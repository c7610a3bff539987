"""Pure mathematics on tensors: no files, no models, no settings."""
