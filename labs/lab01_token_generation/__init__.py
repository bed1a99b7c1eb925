"""Lab 01: token generation, from RMSNorm to a stream of text."""
