#include "statecell/client.h"

#include <algorithm>

#include "session_core.h"

namespace statecell {

Client::Client(Addresses addresses, Retry retry) : connection_(std::make_shared<Connection>(std::move(addresses), retry)) {}

std::vector<Model> Client::models() {
  const v1::ListModelsResponse reply = connection_->call(&Stub::ListModels, v1::ListModelsRequest());
  std::vector<Model> models;
  for (const v1::Model& model : reply.models()) models.push_back(read(model));
  return models;
}

Model Client::model(const std::string& name, const std::string& version) {
  v1::GetModelRequest request;
  request.set_name(name);
  request.set_version(version);
  return read(connection_->call(&Stub::GetModel, request).model());
}

std::vector<SessionInfo> Client::sessions(const std::string& model) {
  std::vector<SessionInfo> found;
  v1::ListSessionsRequest request;
  request.set_model(model);
  do {
    const v1::ListSessionsResponse reply = connection_->call(&Stub::ListSessions, request);
    for (const v1::Session& session : reply.sessions()) found.push_back(read(session));
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty());
  return found;
}

Tensors Client::infer(const std::string& name, const Tensors& inputs, const std::string& version) {
  const Model model = this->model(name, version);
  std::vector<TensorSpec> specs = model.spec.inputs;
  const std::vector<TensorSpec> states = states_of(model.spec);
  const auto given = [&](const TensorSpec& state) { return inputs.count(state.name) > 0; };
  if (std::any_of(states.begin(), states.end(), given)) specs.insert(specs.end(), states.begin(), states.end());
  v1::InferRequest request;
  request.set_model(name);
  request.set_version(model.version);
  write_tensors(conform(specs, inputs, {}), request.mutable_inputs());
  return read_tensors(connection_->call(&Stub::Infer, request).outputs());
}

Session Client::session(const std::string& name, const SessionOptions& options) {
  v1::CreateSessionRequest request;
  request.set_model(name);
  request.set_version(options.version);
  request.set_batch(options.snapshot ? options.snapshot->batch : options.batch);
  request.set_durable(options.durable);
  if (!options.state.empty()) {
    if (options.snapshot) throw InvalidRequest("a session starts from a state or from a snapshot, not from both");
    const Model model = connection_->known(name, options.version);
    write_tensors(conform(states_of(model.spec), options.state, {{"batch", options.batch}}), request.mutable_initial_state());
  }
  if (options.snapshot) request.mutable_snapshot()->ParseFromString(options.snapshot->bytes);
  Route route = connection_->next_route();
  const SessionInfo info = read(connection_->call(&Stub::CreateSession, request, route).session());
  Model model = connection_->known(name, info.version);
  return Session(std::make_shared<SessionCore>(connection_, route.of_session(info.durable), std::move(model), info));
}

Session Client::attach(const std::string& session_id, bool durable) {
  v1::GetStateRequest request;
  request.set_session_id(session_id);
  for (std::size_t left = connection_->address_count();; --left) {
    Route route = connection_->next_route();
    try {
      const Snapshot snapshot = read(connection_->call(&Stub::GetState, request, route, session_id).snapshot());
      const v1::ListModelsResponse listed = connection_->call(&Stub::ListModels, v1::ListModelsRequest(), route);
      const auto ours = std::find_if(listed.models().rbegin(), listed.models().rend(), [&](const v1::Model& model) {
        return model.name() == snapshot.model && model.digest() == snapshot.digest;
      });
      if (ours == listed.models().rend()) {
        throw ModelNotFound("session " + session_id + " is of a '" + snapshot.model + "' that the server does not list any more");
      }
      SessionInfo info;
      info.id = session_id;
      info.batch = snapshot.batch;
      info.step_index = snapshot.step_index;
      info.durable = durable;
      return Session(std::make_shared<SessionCore>(connection_, route.of_session(durable), read(*ours), info));
    } catch (const SessionGone&) {
      if (left == 1) throw;
    }
  }
}

}  // namespace statecell
