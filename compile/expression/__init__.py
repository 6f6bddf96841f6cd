"""The expression net: a small CNN on aligned grey faces, from FER2013 and CK+ to the ONNX file that ships."""
