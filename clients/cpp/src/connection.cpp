#include "connection.h"

#include <algorithm>
#include <random>
#include <stdexcept>
#include <thread>

#include "text.h"
#include "wire.h"

namespace statecell {
namespace {

grpc::ChannelArguments channel_arguments(std::chrono::milliseconds silence) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(silence.count() * 2 / 3));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(silence.count() / 3));
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A server that comes back is found within a second, not within gRPC's two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Retries are this library's: gRPC's own would not move on to another address.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  // Clients of one process do not share a connection: servers balance connections.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

}  // namespace

Connection::Connection(std::vector<std::string> addresses, Retry retry) : addresses_(std::move(addresses)), retry_(retry) {
  if (addresses_.empty() || std::count(addresses_.begin(), addresses_.end(), "")) {
    throw std::invalid_argument("addresses are " + show(addresses_) + ", expected one or more such as localhost:50051");
  }
  const std::chrono::milliseconds none{0};
  if (retry.timeout <= none || retry.silence <= none || retry.first_pause <= none || retry.first_pause > retry.longest_pause) {
    throw std::invalid_argument("retry: expected timeout > 0, silence > 0 and 0 < first_pause <= longest_pause");
  }
  index_ = std::random_device{}() % addresses_.size();  // so that many clients spread
}

Route Connection::current_route() {
  const std::lock_guard lock(mutex_);
  return {&addresses_, index_};
}

Route Connection::next_route() {
  const std::lock_guard lock(mutex_);
  index_ = (index_ + 1) % addresses_.size();
  return {&addresses_, index_};
}

Connection::Endpoint& Connection::endpoint(const std::string& address) {
  const std::lock_guard lock(mutex_);
  Endpoint& endpoint = endpoints_[address];
  if (!endpoint.stub) {
    endpoint.channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), channel_arguments(retry_.silence));
    endpoint.stub = v1::InferenceService::NewStub(endpoint.channel);
  }
  return endpoint;
}

void Connection::wait(const std::string& address, std::chrono::milliseconds pause) {
  const auto until = std::chrono::system_clock::now() + pause;
  // Not only a sleep: without its event engine gRPC connects only while some thread is in it.
  endpoint(address).channel->WaitForConnected(until);
  std::this_thread::sleep_until(until);
}

void Connection::add_headers(grpc::ClientContext& context, const std::string& session_id) {
  if (!session_id.empty()) context.AddMetadata("x-session-id", session_id);
}

Model Connection::known(const std::string& name, const std::string& version) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = models_.find({name, version});
    if (found != models_.end()) return found->second;
  }
  v1::GetModelRequest request;
  request.set_name(name);
  request.set_version(version);
  Model model = read(call(&Stub::GetModel, request).model());
  const std::lock_guard lock(mutex_);
  if (!version.empty()) models_.insert_or_assign({name, version}, model);  // what is newest may change
  return model;
}

}  // namespace statecell
