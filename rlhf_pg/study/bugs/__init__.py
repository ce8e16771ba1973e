"""The museum of silent bugs: each room holds one wrong variant, and measures what it does."""
