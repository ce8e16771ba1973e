"""Bias and variance of every gradient estimator at one policy: methods, sources, measure."""
