"""The command line: a dict of functions, parsed by tyro from their types."""
