"""Functional deep learning: models are two pure functions, training is one loop, a metric is a sum and a count."""
