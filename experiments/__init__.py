"""Applications of dlx, and the commands that launch them: python -m experiments."""
