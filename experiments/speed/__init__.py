"""What `benchmark` measures: a file per question, each with its peer in PyTorch or in plain Python."""
