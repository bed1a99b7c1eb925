"""What a student opens: one package a lab, and the course library in `common`."""
