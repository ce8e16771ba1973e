"""A run as a page for the browser, and as text for the terminal."""
