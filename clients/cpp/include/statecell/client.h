// Step recurrent models on a statecell server as if they were local.
//
//     statecell::Client client("localhost:50051");
//     statecell::Session session = client.session("charlm");
//     statecell::Tensor logits = session.step(65);
#pragma once

#include <chrono>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "statecell/errors.h"
#include "statecell/model.h"
#include "statecell/session.h"
#include "statecell/tensor.h"

namespace statecell {

// Calls that may pass when repeated are, until `timeout` after they were first sent.
//
// Every step carries its step_index, so a repeated one is applied once. The pause before a repetition doubles from first_pause
// to longest_pause, or is what the server asks for; a random part keeps many clients from coming back at once. A connection
// that gives no sign of life for `silence` while a call waits for it counts as broken.
struct Retry {
  std::chrono::milliseconds timeout{60'000};
  std::chrono::milliseconds first_pause{20};
  std::chrono::milliseconds longest_pause{1000};
  std::chrono::milliseconds silence{15'000};
};

struct SessionOptions {
  // Empty: the newest.
  std::string version = {};
  // Rows that advance together.
  int batch = 1;
  // The initial state by name ("h_0", "c_0"); empty: the model's own.
  Tensors state = {};
  // Instead of a state; it also says how many rows.
  std::optional<Snapshot> snapshot = {};
  // Outlives its server, where the server has a store.
  bool durable = false;
};

// "host:port", or several: {"one:50051", "two:50051"}.
struct Addresses : std::vector<std::string> {
  Addresses(const char* one) : std::vector<std::string>{one} {}
  Addresses(const std::string& one) : std::vector<std::string>{one} {}
  Addresses(std::initializer_list<std::string> several) : std::vector<std::string>(several) {}
  Addresses(std::vector<std::string> several) : std::vector<std::string>(std::move(several)) {}
};

class Connection;

// Calls a statecell server, or several replicas that share a store.
//
// Threads may share a client, not a session. Nothing is connected before the first call. A call that meets a server which is
// down or busy is repeated as `retry` says, a step with the same step_index, so that it is applied once; where no address ever
// answered, ServerUnreachable comes at once.
class Client {
 public:
  // Throws std::invalid_argument where an address or `retry` cannot be meant.
  explicit Client(Addresses addresses, Retry retry = {});

  // What the server has, every version.
  std::vector<Model> models();
  // One model, its newest version unless another is named. Throws ModelNotFound.
  Model model(const std::string& name, const std::string& version = "");
  // The server's sessions, all or those of one model.
  std::vector<SessionInfo> sessions(const std::string& model = "");

  // One stateless call: `client.infer("lstm", {{"x", x}, {"h_0", h_0}, {"c_0", c_0}}).at("y")`.
  //
  // Takes the model's inputs by name, in its own layout, of any seq_len and batch, and all of its initial states or none.
  // Numbers without a shape do where one size is to be found out. Gives outputs and final states by name.
  Tensors infer(const std::string& name, const Tensors& inputs, const std::string& version = "");

  // A new session. Throws ModelNotFound, NotStreamable, SnapshotMismatch, StateBudgetExceeded, ShapeMismatch, DtypeMismatch.
  Session session(const std::string& name, const SessionOptions& options = {});

  // A session that is there already. With several addresses, a `durable` one may be answered by any of them. Throws
  // SessionGone, ModelNotFound.
  Session attach(const std::string& session_id, bool durable = false);

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace statecell
