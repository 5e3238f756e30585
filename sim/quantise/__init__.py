"""A checkpoint quantised on what the reference engine shows its products, skipping switched on, and what that costs."""
