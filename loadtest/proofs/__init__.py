"""Long proofs: capacity, overload, soak and resource usage."""
