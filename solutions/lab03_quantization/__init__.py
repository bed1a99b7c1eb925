"""Lab 03: numbers in fewer bits, by every method that serving engines use."""
