"""Training of the edge model on a CPU, in three stages: the words, the voice, then the fusion on a frozen trunk."""
