"""Lab 02: what a model needs, what a GPU gives, and what that costs."""
