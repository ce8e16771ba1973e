"""Tensors in, tensors out: returns, baselines, KL, losses and the one learner."""
