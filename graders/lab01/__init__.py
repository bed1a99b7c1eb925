"""Hidden tests of lab 01."""
