"""A GPU that is not there, its log, and how to run a command on it: `make nullgpu`."""
