import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from statecell.v1 import inference_pb2 as pb
from statecell.v1 import inference_pb2_grpc

from bench.messages import sessions, streamed, x
from bench.process import ProcessError, listening, module, output, start

ALLOWED = "import os, threading; threading.Thread(target=lambda: print(*os.sched_getaffinity(0))).start()"


def test_child_and_its_threads_stay_on_their_core(server_core: int) -> None:
    assert output([sys.executable, "-c", ALLOWED], server_core)[0].split() == [str(server_core).encode()]


def test_failed_child_says_what_it_wrote(server_core: int) -> None:
    with pytest.raises(ProcessError, match="ended with 3:\nout of luck"):
        output([sys.executable, "-c", "import sys; sys.stderr.write('out of luck'); sys.exit(3)"], server_core)


def test_server_that_does_not_start_says_why(server_core: int, tmp_path: Path) -> None:
    command = module("statecell_server", "--models", tmp_path, "--port", 0)
    with pytest.raises(ProcessError, match="there is no model in"), listening(command, server_core):
        pass


def test_stopped_server_has_told_its_batch_sizes(models: Path, server_core: int, tmp_path: Path) -> None:
    (tmp_path / "lstm").symlink_to(models / "lstm")
    with (
        listening(module("statecell_server", "--models", tmp_path, "--port", 0), server_core) as server,
        grpc.insecure_channel(server.address) as channel,
        sessions(server.address, "lstm", 3) as ids,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        requests = [streamed(ids, x(1, 3, 10)), streamed(ids[:1], x(5, 1, 10))]
        replies = [next(stub.StreamSteps(iter([pb.StreamStepsRequest.FromString(request.data)]))) for request in requests]
        assert [len(reply.errors) for reply in replies] == [0, 1]  # the second repeats step_index 0
    assert server.batches() == {3: 1}


def test_one_core_is_refused_with_what_to_do(server_core: int) -> None:
    with start(module("bench.run", "--quick"), server_core, stdout=subprocess.PIPE) as process:
        assert "the benchmark needs two cores" in " ".join(process.communicate()[0].decode().split())
    assert process.returncode == 1
