// SessionCore: what a Session and its Streams share.
#pragma once

#include <optional>
#include <string>

#include "connection.h"
#include "layout.h"
#include "statecell/session.h"
#include "wire.h"

namespace statecell {

class SessionCore {
 public:
  SessionCore(std::shared_ptr<Connection> connection, Route route, Model model, const SessionInfo& info)
      : connection(std::move(connection)),
        route(route),
        layout(model.spec, info.batch),
        model(std::move(model)),
        id(info.id),
        batch(info.batch),
        durable(info.durable),
        step_index(info.step_index) {}

  // Carries one message of steps out: `send` gives the reply to the inputs. Throws StepUnsettled, and what `send` throws.
  //
  // While the outcome of a step is unknown, only the very same step may be sent: with that step_index the server would answer
  // another input with the stored reply of the first.
  template <class Send>
  Tensors advance(const Tensors& inputs, Send send) {
    if (unsettled && *unsettled != inputs) {
      throw StepUnsettled("whether the step at step_index " + std::to_string(step_index) +
                          " was applied is not known: repeat it with the same input, or read session.state() and go on from there");
    }
    unsettled = inputs;
    try {
      Tensors outputs = send();
      unsettled.reset();
      return outputs;
    } catch (const StatecellError& error) {
      if (error.settled()) unsettled.reset();
      throw;
    }
  }

  template <class Request>
  Request request() const {
    Request request;
    request.set_session_id(id);
    return request;
  }

  template <class Request, class Reply>
  Reply call(grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&, Reply*), const Request& request,
             std::chrono::milliseconds timeout = {}) {
    return connection->call(rpc, request, route, id, timeout);
  }

  std::shared_ptr<Connection> connection;
  Route route;
  Layout layout;
  Model model;
  std::string id;
  int batch;
  bool durable;
  std::int64_t step_index;
  std::optional<Tensors> unsettled;
};

}  // namespace statecell
