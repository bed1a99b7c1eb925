"""Lab 03's hidden side."""
