"""The side that knows the tests and judges. It never imports student code."""
