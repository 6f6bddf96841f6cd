"""MediaPipe's face detector and face mesh, from TFLite to ONNX: `python -m psamf_edge.compile.face_models`."""
