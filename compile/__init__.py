"""PyTorch to bundle: the model, its training, export, quantisation and compilation."""
