"""statecell health: whether servers serve, as an exit code."""

import json
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from statecell_client.address import check
from statecell_client.cli.common import LOCAL, AsJson, Servers, given


def health(
    model: Annotated[str, typer.Argument(help="A model's name, or statecell.store for the store; else the whole server.")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 3.0,
    as_json: AsJson = False,
    server: Servers = LOCAL,
) -> None:
    """Ask by grpc.health.v1 whether each server serves. Exit code 0: all of them do; 1: one does not, or does not answer.

    Example: statecell health --server 127.0.0.1:50051
    """
    answers = {address: _status(address, model, timeout) for address in server}
    if as_json:
        print(json.dumps(answers))
    else:
        for address, status in answers.items():
            print(f"{address}: {status}")
    if set(answers.values()) != {"SERVING"}:
        raise typer.Exit(1)


def _status(address: str, service: str, timeout: float) -> str:
    try:
        check(address)
    except ValueError as error:
        return f"NO_ADDRESS: {error}"
    tls = given.tls
    channel = grpc.insecure_channel(address) if tls is None else grpc.secure_channel(address, tls.credentials())
    with channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            reply = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return f"NOT_FOUND: the server has no {service!r}"
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
