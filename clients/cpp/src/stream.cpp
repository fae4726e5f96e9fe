#include "session_core.h"

namespace statecell {

// An open StreamSteps call, one message in flight at a time: the server keeps the last reply of a session, so that one message
// can be repeated after a lost reply and is still applied once.
class Stream::Call {
 public:
  explicit Call(SessionCore& core) : address_(core.route.address()) {
    Connection::add_headers(context_, core.id);
    call_ = core.connection->stub(address_).StreamSteps(&context_);
  }

  ~Call() {
    context_.TryCancel();
    if (!finished_) call_->Finish();
  }

  v1::StreamStepsResponse exchange(const v1::StreamStepsRequest& request) {
    v1::StreamStepsResponse reply;
    if (call_->Write(request) && call_->Read(&reply)) return reply;
    finished_ = true;
    const grpc::Status status = call_->Finish();
    if (!status.ok()) raise(status, address_);
    throw ServerUnreachable("the server at " + address_ + " has ended the stream",
                            {.code = grpc::StatusCode::UNAVAILABLE, .settled = false});
  }

 private:
  std::string address_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::StreamStepsRequest, v1::StreamStepsResponse>> call_;
  bool finished_ = false;
};

Stream::Stream(std::shared_ptr<SessionCore> core) : core_(std::move(core)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

Tensor Stream::step(const Tensor& x) { return step(Tensors{{core_->layout.only_input(), x}}).begin()->second; }

Tensors Stream::step(const Tensors& inputs) {
  const Tensors conforming = core_->layout.step(inputs);
  v1::StreamStepsRequest request;
  request.add_session_ids(core_->id);
  request.add_step_indexes(core_->step_index);
  write_tensors(conforming, request.mutable_inputs());

  const auto attempt = [&](Attempts::Clock::time_point) {
    if (!call_) call_ = std::make_unique<Call>(*core_);
    v1::StreamStepsResponse reply;
    try {
      reply = call_->exchange(request);
    } catch (const StatecellError&) {
      call_.reset();
      throw;
    }
    if (reply.errors().empty()) return reply;
    if (reply.errors(0).code() == grpc::StatusCode::UNAVAILABLE) call_.reset();  // perhaps another address will do
    raise(reply.errors(0));
  };
  return core_->layout.answer(core_->advance(conforming, [&] {
    const v1::StreamStepsResponse reply = core_->connection->repeat(core_->route, {}, attempt);
    core_->step_index = reply.step_indexes(0);
    return read_tensors(reply.outputs());
  }));
}

}  // namespace statecell
