#include "rich_error.h"

#include "statecell/client/rich_error.pb.h"
#include "statecell/errors.h"

namespace statecell {
namespace {

using Raise = void (*)(const std::string& message, ErrorDetails details);

template <class Error>
void raise_as(const std::string& message, ErrorDetails details) {
  throw Error(message, std::move(details));
}

const std::map<std::string, Raise> kByReason = {
    {"MODEL_NOT_FOUND", raise_as<ModelNotFound>},
    {"MODEL_REFUSED", raise_as<ModelRefused>},
    {"MODEL_IN_USE", raise_as<ModelInUse>},
    {"SESSION_NOT_FOUND", raise_as<SessionNotFound>},
    {"SESSION_EXPIRED", raise_as<SessionExpired>},
    {"SESSION_EVICTED", raise_as<SessionEvicted>},
    {"SESSION_LOST", raise_as<SessionLost>},
    {"STEP_OUT_OF_ORDER", raise_as<StepOutOfOrder>},
    {"INVALID_REQUEST", raise_as<InvalidRequest>},
    {"SHAPE_MISMATCH", raise_as<ShapeMismatch>},
    {"DTYPE_MISMATCH", raise_as<DtypeMismatch>},
    {"EMPTY_TENSOR", raise_as<EmptyTensor>},
    {"NON_FINITE_INPUT", raise_as<NonFiniteInput>},
    {"INPUT_REFUSED", raise_as<InputRefused>},
    {"NOT_STREAMABLE", raise_as<NotStreamable>},
    {"SNAPSHOT_MISMATCH", raise_as<SnapshotMismatch>},
    {"QUEUE_FULL", raise_as<QueueFull>},
    {"STATE_BUDGET_EXCEEDED", raise_as<StateBudgetExceeded>},
    {"STORE_UNAVAILABLE", raise_as<StoreUnavailable>},
    {"STORE_FULL", raise_as<StoreFull>},
    {"SESSION_CONTENDED", raise_as<SessionContended>},
    {"SESSION_EXISTS", raise_as<SessionExists>},
    {"DRAINING", raise_as<Draining>},
    {"UNAVAILABLE", raise_as<ServerUnreachable>},
    {"UNAUTHENTICATED", raise_as<Unauthenticated>},
    {"PERMISSION_DENIED", raise_as<PermissionDenied>},
    {"INTERNAL", raise_as<InternalError>},
    {"DEADLINE_EXCEEDED", raise_as<DeadlineExceeded>},
};

[[noreturn]] void raise(const std::string& message, ErrorDetails details) {
  const auto applied = details.metadata.find("applied");
  // The server itself may not know whether its store has the step.
  if (applied != details.metadata.end() && applied->second == "unknown") details.settled = false;
  const auto found = kByReason.find(details.reason);
  if (found != kByReason.end()) found->second(message, details);
  throw StatecellError(message, std::move(details));
}

std::chrono::milliseconds milliseconds(const google::protobuf::Duration& duration) {
  return std::chrono::milliseconds(duration.seconds() * 1000 + duration.nanos() / 1'000'000);
}

// Reads the detail of that google.rpc type into `message`; false where there is none.
bool read_detail(const client::RichStatus& status, const std::string& type, google::protobuf::Message& message) {
  for (const google::protobuf::Any& detail : status.details()) {
    const std::string& url = detail.type_url();
    if (url.substr(url.rfind('/') + 1) == type) return message.ParseFromString(detail.value());
  }
  return false;
}

const char* name_of(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::UNAVAILABLE: return "UNAVAILABLE";
    case grpc::StatusCode::DEADLINE_EXCEEDED: return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::INTERNAL: return "INTERNAL";
    case grpc::StatusCode::CANCELLED: return "CANCELLED";
    case grpc::StatusCode::RESOURCE_EXHAUSTED: return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::UNIMPLEMENTED: return "UNIMPLEMENTED";
    default: return "UNKNOWN";
  }
}

}  // namespace

bool StatecellError::may_pass() const { return code() == grpc::StatusCode::UNAVAILABLE || retry_after().has_value(); }

void raise(const grpc::Status& status, const std::string& address) {
  client::RichStatus rich;
  client::ErrorInfo info;
  if (rich.ParseFromString(status.error_details()) && read_detail(rich, "google.rpc.ErrorInfo", info)) {
    ErrorDetails details{.reason = info.reason(), .code = status.error_code()};
    details.metadata.insert(info.metadata().begin(), info.metadata().end());
    client::RetryInfo retry;
    if (read_detail(rich, "google.rpc.RetryInfo", retry)) details.retry_after = milliseconds(retry.retry_delay());
    raise(status.error_message(), std::move(details));
  }
  std::string message = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    message = "no statecell server answers at " + address + " (" + message + "); start one there or correct the address";
  } else if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    message = "what answers at " + address + " is not a statecell server of this release (" + message + ")";
  }
  raise(message, {.reason = name_of(status.error_code()), .code = status.error_code(), .settled = false});
}

void raise(const v1::StepError& error) {
  ErrorDetails details{.reason = error.reason(), .code = error.code()};
  details.metadata.insert(error.metadata().begin(), error.metadata().end());
  if (error.has_retry_delay()) details.retry_after = milliseconds(error.retry_delay());
  raise(error.message(), std::move(details));
}

}  // namespace statecell
