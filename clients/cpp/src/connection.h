// Calls over one or several addresses.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "retry.h"
#include "rich_error.h"
#include "statecell/model.h"
#include "statecell/v1/inference.grpc.pb.h"

namespace statecell {

using Stub = v1::InferenceService::Stub;

class Connection {
 public:
  Connection(std::vector<std::string> addresses, Retry retry);

  // Where to create the next session: the addresses take turns.
  Route next_route();
  std::size_t address_count() const { return addresses_.size(); }

  // The reply, after as many attempts as it takes. Throws StatecellError.
  template <class Request, class Reply>
  Reply call(grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&, Reply*), const Request& request, Route& route,
             const std::string& session_id = "", std::chrono::milliseconds timeout = {}) {
    return repeat(route, timeout, [&](Attempts::Clock::time_point deadline) {
      grpc::ClientContext context;
      context.set_deadline(deadline);
      add_headers(context, session_id);
      Reply reply;
      const grpc::Status status = (stub(route.address()).*rpc)(&context, request, &reply);
      if (!status.ok()) raise(status, route.address());
      return reply;
    });
  }
  template <class Request, class Reply>
  Reply call(grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&, Reply*), const Request& request) {
    Route route = current_route();
    return call(rpc, request, route);
  }

  // What `attempt(deadline)` gives, as often as it takes; a timeout of 0 is the retry's own.
  template <class Attempt>
  auto repeat(Route& route, std::chrono::milliseconds timeout, Attempt attempt) {
    Attempts attempts(route, retry_, reached_, timeout.count() ? timeout : retry_.timeout);
    for (;;) {
      std::chrono::milliseconds pause;
      try {
        auto result = attempt(attempts.deadline());
        reached_ = true;
        return result;
      } catch (StatecellError& error) {
        if (!dynamic_cast<ServerUnreachable*>(&error)) reached_ = true;
        pause = attempts.failed(error);
      }
      wait(route.address(), pause);
    }
  }

  Stub& stub(const std::string& address) { return *endpoint(address).stub; }
  // Balancers may keep a session on its replica by the header x-session-id; that is faster, not needed.
  static void add_headers(grpc::ClientContext& context, const std::string& session_id);

  // A model of a version; asked for once.
  Model known(const std::string& name, const std::string& version);

 private:
  struct Endpoint {
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<Stub> stub;
  };

  Route current_route();
  // The channel to an address, made when it is first needed.
  Endpoint& endpoint(const std::string& address);
  // Waits before the next attempt at that address.
  void wait(const std::string& address, std::chrono::milliseconds pause);

  const std::vector<std::string> addresses_;
  const Retry retry_;
  std::atomic<bool> reached_{false};
  std::mutex mutex_;
  std::size_t index_;
  std::map<std::string, Endpoint> endpoints_;
  std::map<std::pair<std::string, std::string>, Model> models_;
};

}  // namespace statecell
