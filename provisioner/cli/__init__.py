"""The command line: one command a file. Each parses, calls and prints; heavy imports are inside the functions that need them."""
