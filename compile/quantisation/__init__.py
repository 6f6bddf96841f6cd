"""What a graph needs whose activations have eight bits: the range of each on calibration data, smoothed channels."""
