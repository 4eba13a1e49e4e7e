"""Data in numpy arrays: where it comes from, and batches as pure functions of the step. JAX stays outside."""
