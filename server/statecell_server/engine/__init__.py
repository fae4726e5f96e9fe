"""What a client can ask for. Stands on `batching`; knows neither protobuf nor gRPC."""
