"""What tensors are called: wrappers, prefixes, fused layouts, experts, tied embeddings."""
