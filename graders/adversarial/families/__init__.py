"""The attacks, a module for each family: its docstring is the family's title and the answer."""
