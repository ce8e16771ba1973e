"""Tokens as actions: a small causal language model is the policy."""
