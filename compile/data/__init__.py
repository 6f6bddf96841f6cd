"""Training data: text with labels, voices and faces with an emotion, and the composition of the three."""
