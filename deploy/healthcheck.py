"""Ask a server by grpc.health.v1 whether it serves: `python healthcheck.py 127.0.0.1:50051`.

Exits 0 when the answer is SERVING, and 1 with the reason when it is not or does not come within 3 s.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

address = sys.argv[1]
with grpc.insecure_channel(address) as channel:
    try:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3.0)
    except grpc.RpcError as error:
        sys.exit(f"{address}: {error.code().name}: {error.details()}")
if reply.status != health_pb2.HealthCheckResponse.SERVING:
    sys.exit(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}")
