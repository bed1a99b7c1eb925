"""The side that runs student code. Nothing here knows a test, an expected value or a key."""
