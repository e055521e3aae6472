"""The null GPU, a stand-in that computes nothing: its log, and how to run a command on it (`make nullgpu`)."""
