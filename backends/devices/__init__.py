"""Running a graph on devices: what is placed on each runs there, copies overlap with it, memory limits hold."""
