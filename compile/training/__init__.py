"""Training of the edge model on a CPU, in two stages: the words first, then the fusion on top of a frozen trunk."""
