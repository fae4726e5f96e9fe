"""HTTP/1.1, beside gRPC and in the same event loop. Needs the extra `http`: uvicorn and Starlette."""
