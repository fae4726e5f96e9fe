"""ONNX files from anywhere: their states found, their axes named, their spec proven. Stands on all other rooms."""
