"""What several test files share: import it as `from support.language import tiny_lm`."""
