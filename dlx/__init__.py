"""Functional deep learning: a model is two pure functions, training is one loop."""
