#include "statecell/session.h"

#include "session_core.h"

namespace statecell {
namespace {

// Time steps that run sends in one message at most: the server keeps the last reply of each session.
constexpr std::int64_t kMessageSteps = 256;
constexpr std::chrono::milliseconds kCloseTimeout{5000};

Tensors advance(SessionCore& core, const Tensors& inputs) {
  return core.advance(inputs, [&] {
    auto request = core.request<v1::StepRequest>();
    write_tensors(inputs, request.mutable_inputs());
    request.set_step_index(core.step_index);
    const v1::StepResponse reply = core.call(&Stub::Step, request);
    core.step_index = reply.step_index();
    return read_tensors(reply.outputs());
  });
}

}  // namespace

Session::Session(std::shared_ptr<SessionCore> core) : core_(std::move(core)) {}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(core_, other.core_);
  return *this;
}

Session::~Session() {
  if (!core_) return;
  try {
    close();
  } catch (const StatecellError&) {
    // A destructor cannot throw, and the server drops an idle session by itself. Whoever wants to know calls close().
  }
}

const std::string& Session::id() const { return core_->id; }
const Model& Session::model() const { return core_->model; }
int Session::batch() const { return core_->batch; }
bool Session::durable() const { return core_->durable; }
std::int64_t Session::step_index() const { return core_->step_index; }

Tensor Session::step(const Tensor& x) { return step(Tensors{{core_->layout.only_input(), x}}).begin()->second; }

Tensors Session::step(const Tensors& inputs) {
  return core_->layout.answer(advance(*core_, core_->layout.step(inputs)));
}

Tensor Session::run(const Tensor& xs) { return run(Tensors{{core_->layout.only_input(), xs}}).begin()->second; }

Tensors Session::run(const Tensors& inputs) {
  std::vector<Tensors> outputs;
  for (const Tensors& piece : core_->layout.cut(core_->layout.run(inputs), kMessageSteps)) {
    outputs.push_back(advance(*core_, piece));
  }
  return core_->layout.join(outputs);
}

Stream Session::stream() { return Stream(core_); }

Tensors Session::state() { return snapshot().states; }

Snapshot Session::snapshot() {
  Snapshot snapshot = read(core_->call(&Stub::GetState, core_->request<v1::GetStateRequest>()).snapshot());
  core_->step_index = snapshot.step_index;
  core_->unsettled.reset();
  return snapshot;
}

Session Session::fork() { return std::move(fork(1).front()); }

std::vector<Session> Session::fork(int count) {
  auto request = core_->request<v1::ForkSessionRequest>();
  request.set_count(count);
  const v1::ForkSessionResponse reply = core_->call(&Stub::ForkSession, request);
  std::vector<Session> forks;
  for (const v1::Session& fork : reply.sessions()) {
    const Route route = core_->route.of_session(fork.durable());
    forks.emplace_back(std::make_shared<SessionCore>(core_->connection, route, core_->model, read(fork)));
  }
  return forks;
}

void Session::reset() {
  core_->step_index = core_->call(&Stub::ResetSession, core_->request<v1::ResetSessionRequest>()).session().step_index();
  core_->unsettled.reset();
}

void Session::close() {
  const std::shared_ptr<SessionCore> core = core_;
  core_.reset();
  if (!core) return;
  try {
    core->call(&Stub::DeleteSession, core->request<v1::DeleteSessionRequest>(), kCloseTimeout);
  } catch (const SessionGone&) {
    // which is what is wanted
  }
}

std::string Session::detach() { return std::exchange(core_, nullptr)->id; }

}  // namespace statecell
