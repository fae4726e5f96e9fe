// What a call can fail with: one exception a reason, each says whose fault it is and what to do.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace statecell {

// What is known of a failure beyond its message.
struct ErrorDetails {
  std::string reason = {};
  int code = 3;
  std::map<std::string, std::string> metadata = {};
  std::optional<std::chrono::milliseconds> retry_after = {};
  bool settled = true;

  ErrorDetails or_reason(const char* own) && {
    if (reason.empty()) reason = own;
    return std::move(*this);
  }
};

// Base of all that a call can fail with.
class StatecellError : public std::runtime_error {
 public:
  explicit StatecellError(const std::string& message, ErrorDetails details = {})
      : std::runtime_error(message), details_(std::move(details).or_reason("UNKNOWN")) {}

  // Stable and the same in every client: "SHAPE_MISMATCH".
  const std::string& reason() const { return details_.reason; }
  // gRPC's status code.
  int code() const { return details_.code; }
  // What came and what was expected.
  const std::map<std::string, std::string>& metadata() const { return details_.metadata; }
  // Set where the same call may succeed later.
  std::optional<std::chrono::milliseconds> retry_after() const { return details_.retry_after; }
  // Whether the call surely changed nothing; otherwise its reply may have been lost on the way.
  bool settled() const { return details_.settled; }
  void unsettle() { details_.settled = false; }
  // Whether the same call may succeed when it is sent again.
  bool may_pass() const;

 private:
  ErrorDetails details_;
};

#define STATECELL_ERROR(Name, Base, REASON)                                  \
  class Name : public Base {                                                 \
   public:                                                                   \
    explicit Name(const std::string& message, ErrorDetails details = {})     \
        : Base(message, std::move(details).or_reason(REASON)) {}             \
  }

// The caller's fault: the server has no such model or version. `client.models()` tells what it has.
STATECELL_ERROR(ModelNotFound, StatecellError, "MODEL_NOT_FOUND");

// The operator's fault: the model's files are not what a server can load.
STATECELL_ERROR(ModelRefused, StatecellError, "MODEL_REFUSED");

// The caller's fault: a model cannot be unloaded while it has sessions.
STATECELL_ERROR(ModelInUse, StatecellError, "MODEL_IN_USE");

// There is no such session any more. Create it again, from a snapshot if you have one.
STATECELL_ERROR(SessionGone, StatecellError, "SESSION_GONE");

// The caller's fault: the session was never there, or was deleted.
STATECELL_ERROR(SessionNotFound, SessionGone, "SESSION_NOT_FOUND");

// Nobody's fault: the session was idle for longer than the server keeps one.
STATECELL_ERROR(SessionExpired, SessionGone, "SESSION_EXPIRED");

// Nobody's fault: the server needed the session's memory. A durable session is never evicted.
STATECELL_ERROR(SessionEvicted, SessionGone, "SESSION_EVICTED");

// The server's fault: it was restarted. A durable session outlives that.
STATECELL_ERROR(SessionLost, SessionGone, "SESSION_LOST");

// The caller's fault: somebody else steps the same session; metadata() names the expected step_index.
STATECELL_ERROR(StepOutOfOrder, StatecellError, "STEP_OUT_OF_ORDER");

// The outcome of the step before is not known: its reply was given up. Repeat that step with the same input, and it is applied
// once; or read `session.state()` and go on from there.
STATECELL_ERROR(StepUnsettled, StatecellError, "STEP_UNSETTLED");

// The caller's fault: an input or a field is missing, unknown, or contradicts another.
STATECELL_ERROR(InvalidRequest, StatecellError, "INVALID_REQUEST");

// The caller's fault: a tensor's shape is not what the model's spec says.
STATECELL_ERROR(ShapeMismatch, StatecellError, "SHAPE_MISMATCH");

// The caller's fault: a tensor's dtype is not what the model's spec says, and its numbers do not convert exactly.
STATECELL_ERROR(DtypeMismatch, StatecellError, "DTYPE_MISMATCH");

// The caller's fault: a tensor has an axis of size 0.
STATECELL_ERROR(EmptyTensor, StatecellError, "EMPTY_TENSOR");

// The caller's fault: NaN or infinity in an input.
STATECELL_ERROR(NonFiniteInput, StatecellError, "NON_FINITE_INPUT");

// The caller's fault as a rule: the model cannot be run on this input, such as a token beyond its vocabulary.
STATECELL_ERROR(InputRefused, StatecellError, "INPUT_REFUSED");

// The model's nature: it has no sessions, because a run in pieces differs from the whole run. Use `client.infer`.
STATECELL_ERROR(NotStreamable, StatecellError, "NOT_STREAMABLE");

// The snapshot is damaged, or belongs to another model or another build of this one.
STATECELL_ERROR(SnapshotMismatch, StatecellError, "SNAPSHOT_MISMATCH");

// The caller's fault: the server asks for a token, and got none of its own.
STATECELL_ERROR(Unauthenticated, StatecellError, "UNAUTHENTICATED");

// The caller's fault: the call needs a role that the token does not have.
STATECELL_ERROR(PermissionDenied, StatecellError, "PERMISSION_DENIED");

// Nobody's fault: more steps wait than the server will queue, and did so until the client gave up.
STATECELL_ERROR(QueueFull, StatecellError, "QUEUE_FULL");

// Nobody's fault: the server's memory for states is taken. Close sessions, or give the server more.
STATECELL_ERROR(StateBudgetExceeded, StatecellError, "STATE_BUDGET_EXCEEDED");

// The store's fault: it did not answer, and did so until the client gave up. The same step may be sent again.
STATECELL_ERROR(StoreUnavailable, StatecellError, "STORE_UNAVAILABLE");

// The operator's fault: the store has no room for the state of a durable session.
STATECELL_ERROR(StoreFull, StatecellError, "STORE_FULL");

// Two servers are stepping the session, and this one lost the race until the client gave up.
STATECELL_ERROR(SessionContended, StatecellError, "SESSION_CONTENDED");

// The caller's fault: there is a live session of that id.
STATECELL_ERROR(SessionExists, StatecellError, "SESSION_EXISTS");

// Nobody's fault: the server is about to stop. Name more than one address and another one serves.
STATECELL_ERROR(Draining, StatecellError, "DRAINING");

// No server answers at the address: it is not running, the address is wrong, or the network is down.
STATECELL_ERROR(ServerUnreachable, StatecellError, "UNAVAILABLE");

// The server's fault: a run failed for a reason that is not in its input. The server's log has it.
STATECELL_ERROR(InternalError, StatecellError, "INTERNAL");

// The call took longer than `Retry::timeout`. Give it more, or ask for less at once.
STATECELL_ERROR(DeadlineExceeded, StatecellError, "DEADLINE_EXCEEDED");

#undef STATECELL_ERROR

}  // namespace statecell
