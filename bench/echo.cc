// An empty gRPC server: answers every message of every call with the message itself. `echo` prints "listening on HOST:PORT".

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <iostream>
#include <memory>

namespace {

enum Op { kAccepted, kRead, kWritten, kFinished };

struct Call;

struct Tag {
  Call* call;
  Op op;
};

struct Call {
  grpc::GenericServerContext context;
  grpc::GenericServerAsyncReaderWriter stream{&context};
  grpc::ByteBuffer message;
  Tag accepted{this, kAccepted}, read{this, kRead}, written{this, kWritten}, finished{this, kFinished};
};

void Accept(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue* queue) {
  auto* call = new Call;
  service.RequestCall(&call->context, &call->stream, queue, queue, &call->accepted);
}

}  // namespace

int main() {
  grpc::AsyncGenericService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterAsyncGenericService(&service);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server) return 1;
  std::cout << "listening on 127.0.0.1:" << port << std::endl;
  Accept(service, queue.get());
  void* got;
  bool ok;
  while (queue->Next(&got, &ok)) {
    auto& [call, op] = *static_cast<Tag*>(got);
    if (op == kAccepted) Accept(service, queue.get());
    if (op == kFinished || (op == kAccepted && !ok))
      delete call;
    else if (op == kRead)
      ok ? call->stream.Write(call->message, &call->written) : call->stream.Finish(grpc::Status::OK, &call->finished);
    else
      ok ? call->stream.Read(&call->message, &call->read) : call->stream.Finish(grpc::Status::OK, &call->finished);
  }
}
