"""A module that was read, as ONNX and as TorchScript. Stands on `reading`; whether it is right is for `proving` to say."""
