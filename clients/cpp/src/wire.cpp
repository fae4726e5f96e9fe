#include "wire.h"

#include "statecell/errors.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors travel as little-endian bytes");

namespace statecell {
namespace {

template <class Message>
TensorSpec read_spec(const std::string& name, const Message& message) {
  return {name, message.dtype(), {message.shape().begin(), message.shape().end()}};
}

std::chrono::system_clock::time_point time_of(const google::protobuf::Timestamp& timestamp) {
  const std::chrono::nanoseconds since = std::chrono::seconds(timestamp.seconds()) + std::chrono::nanoseconds(timestamp.nanos());
  return std::chrono::system_clock::time_point(std::chrono::duration_cast<std::chrono::system_clock::duration>(since));
}

}  // namespace

Model read(const v1::Model& message) {
  const v1::ModelSpec& from = message.spec();
  ModelSpec spec;
  spec.name = from.name();
  spec.streamable = from.streamable();
  spec.reason = from.reason();
  for (const v1::TensorSpec& input : from.inputs()) spec.inputs.push_back(read_spec(input.name(), input));
  for (const v1::TensorSpec& output : from.outputs()) spec.outputs.push_back(read_spec(output.name(), output));
  for (const v1::StateSpec& state : from.states()) {
    spec.states.push_back({read_spec(state.input(), state), state.output(), state.initial()});
  }
  return {message.name(), message.version(), std::move(spec), message.digest(), message.runtime(), message.device(),
          message.session_count(), message.batch_invariant(), message.note()};
}

SessionInfo read(const v1::Session& message) {
  return {message.session_id(), message.model(), message.version(), message.batch(), message.step_index(), message.durable(),
          time_of(message.create_time()), time_of(message.last_used_time())};
}

Snapshot read(const v1::Snapshot& message) {
  return {message.model(), message.digest(), message.batch(), message.step_index(), read_tensors(message.states()),
          message.SerializeAsString()};
}

Snapshot Snapshot::from_bytes(std::string bytes) {
  v1::Snapshot message;
  if (!message.ParseFromString(bytes)) throw SnapshotMismatch(std::to_string(bytes.size()) + " bytes are not a snapshot");
  if (message.format() != 1 || message.model().empty()) {
    throw SnapshotMismatch("a snapshot of format " + std::to_string(message.format()) + " came, this release reads format 1");
  }
  return read(message);
}

}  // namespace statecell
