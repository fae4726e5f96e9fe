// Session: one recurrence whose state the server keeps.
#pragma once

#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "statecell/model.h"
#include "statecell/tensor.h"

namespace statecell {

class SessionCore;

// Steps over one call, which is faster than a call a step: `auto stream = session.stream(); y = stream.step(x);`
//
// A stream that breaks is reopened and goes on. Errors as of Session::step.
class Stream {
 public:
  explicit Stream(std::shared_ptr<SessionCore> core);
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  Tensor step(const Tensor& x);
  Tensors step(const Tensors& inputs);

 private:
  class Call;
  std::shared_ptr<SessionCore> core_;
  std::unique_ptr<Call> call_;
};

// The answers to a range of inputs, each input pulled when the answer before it has been taken.
template <class Inputs>
class Answers {
 public:
  using Answer = decltype(std::declval<Stream&>().step(*std::begin(std::declval<Inputs&>())));

  Answers(Stream stream, Inputs inputs) : stream_(std::move(stream)), inputs_(std::forward<Inputs>(inputs)) {}

  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = Answer;
    using difference_type = std::ptrdiff_t;
    using pointer = const Answer*;
    using reference = const Answer&;

    explicit iterator(Answers& answers) : answers_(answers), at_(std::begin(answers.inputs_)) { pull(); }
    reference operator*() const { return *answer_; }
    pointer operator->() const { return &*answer_; }
    iterator& operator++() {
      ++at_;
      pull();
      return *this;
    }
    bool operator!=(std::nullptr_t) const { return answer_.has_value(); }

   private:
    void pull() {
      answer_.reset();
      if (at_ != std::end(answers_.inputs_)) answer_.emplace(answers_.stream_.step(*at_));
    }
    Answers& answers_;
    decltype(std::begin(std::declval<Inputs&>())) at_;
    std::optional<Answer> answer_;
  };

  iterator begin() { return iterator(*this); }
  std::nullptr_t end() { return nullptr; }

 private:
  Stream stream_;
  Inputs inputs_;
};

// One recurrence whose (h, c) the server keeps between calls.
//
//     statecell::Session session = client.session("charlm");
//     for (int token : tokens) logits = session.step(token);
//
// Its end deletes it on the server. A session belongs to one thread; give each its own, or fork it. A call that the server
// refuses leaves the state as it was. Steps carry step_index, so what the client sends again after a lost reply is applied
// once.
class Session {
 public:
  explicit Session(std::shared_ptr<SessionCore> core);
  Session(Session&&) noexcept = default;
  Session& operator=(Session&&) noexcept;
  // Closes; where the server cannot be told, it drops the session by itself when it has been idle for long enough.
  ~Session();

  // Issued by the server; whoever knows it can step the session.
  const std::string& id() const;
  // The model, in the version that the session started with.
  const Model& model() const;
  // Rows that advance together.
  int batch() const;
  // Whether the session outlives its server.
  bool durable() const;
  // Time steps consumed so far.
  std::int64_t step_index() const;

  // One time step. x are its numbers, [batch, input_size] in row-major order; for a model of ids one a row. y is [batch,
  // hidden_size], without batch where the session has one row. A model with several inputs or outputs takes and gives them by
  // name.
  //
  // Throws ShapeMismatch, DtypeMismatch, EmptyTensor, NonFiniteInput, InputRefused, InvalidRequest (the input), SessionGone
  // (the session), StepUnsettled (the step before), QueueFull, ServerUnreachable, DeadlineExceeded (after all repetitions).
  Tensor step(const Tensor& x);
  Tensors step(const Tensors& inputs);

  // Any number of time steps in the model's own layout, [seq_len, batch, input_size] or [batch, seq_len, input_size]: bit for
  // bit what stepping gives, and much faster. Long sequences are sent in messages of up to 256 steps; where one of them fails
  // for good, the session stands behind the one before, and step_index tells where. Errors as of step.
  Tensor run(const Tensor& xs);
  Tensors run(const Tensors& inputs);

  // Steps over one call: `for (const Tensor& y : session.stream(ticks))`, where each tick converts to Tensor or is Tensors, and
  // is pulled when the answer before it has been taken: it may depend on that answer.
  Stream stream();
  template <class Inputs>
  Answers<Inputs> stream(Inputs&& inputs) {
    return Answers<Inputs>(stream(), std::forward<Inputs>(inputs));
  }

  // The states by the names of the state inputs: `session.state().at("h_0")`. Asks the server, and so learns where the session
  // stands after a step whose outcome was not known.
  Tensors state();
  // The whole state, to go on from later or elsewhere: `client.session("charlm", {.snapshot = session.snapshot()})`.
  Snapshot snapshot();
  // New sessions that go on from this one's state as it is now.
  Session fork();
  std::vector<Session> fork(int count);
  // Back to the model's initial state and step_index 0.
  void reset();
  // Deletes the session; one that is gone already is fine.
  void close();
  // Leaves the session on the server, for `client.attach(id)`; this object is no more to be used.
  std::string detach();

 private:
  std::shared_ptr<SessionCore> core_;
};

}  // namespace statecell
