"""Lab 02's hidden side."""
