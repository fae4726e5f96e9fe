"""What runs a model. The only place that knows onnxruntime, onnx, torch and CUDA. Stands on `arena`."""
