"""What the Open Inference Protocol says of a model: metadata, configuration, statistics."""

from collections.abc import Sequence

from statecell.oip import inference_pb2 as pb
from statecell.oip import model_config_pb2 as config_pb
from statecell.spec import Shape, TensorSpec

from statecell_server.batching.runner import Runner
from statecell_server.protocols.oip.wire import DATATYPES

_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}


def write_metadata(runner: Runner, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    def tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=DATATYPES[spec.dtype], shape=_dims(spec.shape))

    return pb.ModelMetadataResponse(
        name=runner.name,
        versions=versions,
        platform=_PLATFORMS.get(runner.runtime.name, runner.runtime.name),
        inputs=[tensor(t) for t in runner.spec.inputs],
        outputs=[tensor(t) for t in runner.spec.outputs],
    )


def write_config(runner: Runner, max_batch: int, session_ttl: float) -> config_pb.ModelConfig:
    spec = runner.spec
    config = config_pb.ModelConfig(
        name=runner.name,
        platform=_PLATFORMS.get(runner.runtime.name, runner.runtime.name),
        backend=runner.runtime.name,
        version_policy=config_pb.ModelVersionPolicy(specific={"versions": [int(runner.version)]}),
        input=[config_pb.ModelInput(name=t.name, data_type=_data_type(t.dtype), dims=_dims(t.shape)) for t in spec.inputs],
        output=[config_pb.ModelOutput(name=t.name, data_type=_data_type(t.dtype), dims=_dims(t.shape)) for t in spec.outputs],
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )
    if spec.streamable:
        batching = config.sequence_batching
        batching.oldest.max_candidate_sequences = max_batch
        batching.max_sequence_idle_microseconds = int(session_ttl * 1e6)
        for s in spec.states:
            batching.state.add(input_name=s.input, output_name=s.output, data_type=_data_type(s.dtype), dims=_dims(s.shape))
    return config


def _data_type(dtype: str) -> str:
    return f"TYPE_{DATATYPES[dtype]}"


def _dims(shape: Shape) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in shape]


def write_statistics(runner: Runner, success: tuple[int, int], fail: tuple[int, int]) -> pb.ModelStatistics:
    """`success`, `fail`: count and nanoseconds of this front's requests.

    Clients expect the four parts of a request's time to have one count. Known are the whole, and how long a row is in a run on
    average, whoever sent it; what remains counts as queue.
    """
    launcher = runner.launcher
    runs = sorted(launcher.batches.items())
    rows = sum(size * times for size, times in runs)
    count, ns = success
    infer = min(ns, count * sum(size * launcher.busy[size] for size, _ in runs) // max(1, rows))
    return pb.ModelStatistics(
        name=runner.name,
        version=runner.version,
        last_inference=int(launcher.last_run * 1000),
        inference_count=rows,
        execution_count=launcher.batches.total(),
        inference_stats=pb.InferStatistics(
            success=_duration(*success),
            fail=_duration(*fail),
            queue=_duration(count, ns - infer),
            compute_input=_duration(count, 0),
            compute_infer=_duration(count, infer),
            compute_output=_duration(count, 0),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(times, 0),
                compute_infer=_duration(times, launcher.busy[size]),
                compute_output=_duration(times, 0),
            )
            for size, times in runs
        ],
    )


def _duration(count: int, ns: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=ns)
