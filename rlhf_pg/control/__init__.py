"""Gymnasium environments as episodes, for the same learner that trains language models."""
