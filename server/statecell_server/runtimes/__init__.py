"""What runs a model: the only place that knows onnxruntime, onnx, torch and CUDA. Stands on `arena`."""
