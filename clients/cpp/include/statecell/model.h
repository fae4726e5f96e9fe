// What a server says of a model and of a session.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "statecell/tensor.h"

namespace statecell {

// One input, output or state. A size in `shape` is "seq_len", "batch", or a number such as "10".
struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<std::string> shape;
};

// One recurrent state: an input that the next call fills with what this call gave as output.
struct StateSpec {
  TensorSpec input;
  std::string output;
  double initial = 0;
};

// What a model takes, gives and remembers.
struct ModelSpec {
  std::string name;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<StateSpec> states;
  // Whether it can have sessions, and if not why.
  bool streamable = false;
  std::string reason;
};

struct Model {
  std::string name;
  std::string version;
  ModelSpec spec;
  // SHA-256 of the artifact, in hex. Snapshots are bound to it.
  std::string digest;
  std::string runtime;
  std::string device;
  std::int64_t session_count = 0;
  // Whether a row's result is bit for bit the same alone and in any batch.
  bool batch_invariant = false;
  std::string note;
};

// A session as the server lists it.
struct SessionInfo {
  std::string id;
  std::string model;
  std::string version;
  int batch = 1;
  // Time steps consumed so far.
  std::int64_t step_index = 0;
  bool durable = false;
  std::chrono::system_clock::time_point create_time;
  std::chrono::system_clock::time_point last_used_time;
};

// A session's state between two steps, whole and portable.
//
// It is bound to the artifact that it was taken from, and checksummed: the server refuses a wrong one with SnapshotMismatch.
struct Snapshot {
  std::string model;
  std::string digest;
  int batch = 1;
  std::int64_t step_index = 0;
  // By the names of the state inputs: "h_0", "c_0".
  Tensors states;
  // For a file or a database: the serialised statecell.v1.Snapshot, which every client reads.
  std::string bytes;

  // Throws SnapshotMismatch where `bytes` are no snapshot.
  static Snapshot from_bytes(std::string bytes);
};

}  // namespace statecell
