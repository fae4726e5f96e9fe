// Closed-loop load on one gRPC method, bytes in and bytes out: what it sends was serialised by its caller.
//
//   client ADDRESS METHOD streaming|unary CONNECTIONS WINDOW ACTIVE STRIDE WARM SECONDS SMALLEST_REPLY SERVER_PID < lanes
//
// A lane is one caller: a stream, or one unary call after the other. On stdin, for each: uint32 size, uint32 indexes, and the
// message, which ends with `indexes` varints of five bytes; each message adds STRIDE to them (protobuf reads padded varints).
// A lane keeps WINDOW messages in flight. Lanes from ACTIVE on send one message and stay open. The measured time is SECONDS, or
// as long as it takes for every active lane to have two replies.
// stdout: a line of JSON, then the latencies in the measured time as float32 microseconds. bench/client.py speaks the same.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace {

constexpr double kPatience = 30;  // seconds beyond SECONDS for every caller to have two replies

enum Op { kOpened, kWritten, kReplied };

struct Lane;

struct Tag {
  Lane* lane;
  Op op;
};

struct Lane {
  std::string message;
  uint32_t indexes = 0;
  int64_t index = 0;
  bool active = true;
  grpc::GenericStub* stub = nullptr;
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> call;
  grpc::Status status;
  grpc::ByteBuffer reply;
  std::deque<double> sent;  // when, of the messages in flight
  bool writing = false, over = false, opened = false;
  long replies = 0;  // in the measured time, with the first and last of them
  double first = 0, last = 0;
  Tag on_open{this, kOpened}, on_write{this, kWritten}, on_reply{this, kReplied};
};

double Clock(clockid_t id) {
  timespec t;
  if (clock_gettime(id, &t) != 0) return 0;
  return t.tv_sec + t.tv_nsec * 1e-9;
}

double Now() { return Clock(CLOCK_MONOTONIC); }

double CpuOf(pid_t pid) {
  clockid_t id;
  return clock_getcpuclockid(pid, &id) == 0 ? Clock(id) : 0;
}

struct Load {
  std::string method;
  bool streaming;
  size_t window;
  int64_t stride;
  size_t smallest_reply;
  grpc::CompletionQueue queue{};
  std::vector<std::unique_ptr<Lane>> lanes{};
  std::vector<float> latencies{};
  bool measuring = false, stopped = false;
  long failures = 0, flying = 0, unopened = 0, measured = 0;  // measured: callers with two replies in the measured time

  grpc::ByteBuffer NextMessage(Lane& lane) {
    char* at = lane.message.data() + lane.message.size() - 5 * lane.indexes;
    for (uint32_t i = 0; i < lane.indexes; ++i)
      for (int byte = 0; byte < 5; ++byte) *at++ = (lane.index >> (7 * byte) & 0x7f) | (byte < 4 ? 0x80 : 0);
    lane.index += stride;
    grpc::Slice slice(lane.message);
    return grpc::ByteBuffer(&slice, 1);
  }

  void Open(Lane& lane) {
    ++unopened;
    if (!streaming) return Send(lane);
    lane.context = std::make_unique<grpc::ClientContext>();
    lane.stream = lane.stub->PrepareCall(lane.context.get(), method, &queue);
    lane.writing = true;
    lane.stream->StartCall(&lane.on_open);
  }

  void Send(Lane& lane) {
    lane.sent.push_back(Now());
    ++flying;
    if (streaming) {
      lane.writing = true;
      lane.stream->Write(NextMessage(lane), &lane.on_write);
    } else {
      lane.context = std::make_unique<grpc::ClientContext>();
      lane.call = lane.stub->PrepareUnaryCall(lane.context.get(), method, NextMessage(lane), &queue);
      lane.call->StartCall();
      lane.call->Finish(&lane.reply, &lane.status, &lane.on_reply);
    }
  }

  void SendIfRoom(Lane& lane) {
    const bool one = !lane.active && (lane.opened || !lane.sent.empty());
    if (!stopped && !lane.over && !lane.writing && !one && lane.sent.size() < window) Send(lane);
  }

  void Fail(Lane& lane, const std::string& why) {
    if (++failures == 1) std::cerr << "first failure: " << why << std::endl;
    if (!lane.opened) --unopened;
    lane.opened = lane.over = true;
    flying -= lane.sent.size();
    lane.sent.clear();
  }

  void Replied(Lane& lane) {
    const double now = Now();
    --flying;
    if (lane.reply.Length() < smallest_reply) {
      if (++failures == 1) std::cerr << "first failure: a reply of " << lane.reply.Length() << " bytes" << std::endl;
    } else if (measuring) {
      latencies.push_back((now - lane.sent.front()) * 1e6);
      if (lane.replies++ == 0) lane.first = now;
      if (lane.replies == 2) ++measured;
      lane.last = now;
    }
    lane.sent.pop_front();
    if (!lane.opened) --unopened;
    lane.opened = true;
    if (streaming) lane.stream->Read(&lane.reply, &lane.on_reply);
    SendIfRoom(lane);
  }

  void Handle(Tag& tag, bool ok) {
    Lane& lane = *tag.lane;
    if (lane.over) return;
    if (!streaming) return lane.status.ok() ? Replied(lane) : Fail(lane, lane.status.error_message());
    if (!ok) return Fail(lane, "the stream ended");
    if (tag.op == kReplied) return Replied(lane);
    lane.writing = false;
    if (tag.op == kOpened) lane.stream->Read(&lane.reply, &lane.on_reply);
    SendIfRoom(lane);
  }

  // Handles what comes until `time`, or until `done`.
  template <typename Done>
  void Until(double time, Done done) {
    while (!done()) {
      const double left = time - Now();
      if (left <= 0) return;
      void* tag;
      bool ok;
      const auto deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros(left * 1e6, GPR_TIMESPAN));
      if (queue.AsyncNext(&tag, &ok, deadline) == grpc::CompletionQueue::GOT_EVENT) Handle(*static_cast<Tag*>(tag), ok);
    }
  }
};

void ReadLanes(Load& load, size_t active, std::vector<std::unique_ptr<grpc::GenericStub>>& stubs) {
  uint32_t head[2];
  while (fread(head, sizeof head, 1, stdin) == 1) {
    auto lane = std::make_unique<Lane>();
    lane->message.resize(head[0]);
    if (fread(lane->message.data(), 1, head[0], stdin) != head[0]) exit(2);
    lane->indexes = head[1];
    lane->active = load.lanes.size() < active;
    lane->stub = stubs[load.lanes.size() % stubs.size()].get();
    load.lanes.push_back(std::move(lane));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 12) {
    std::cerr << "client is run by bench/load.py\n";
    return 2;
  }
  Load load{argv[2], std::string(argv[3]) == "streaming", std::stoul(argv[5]), std::stol(argv[7]), std::stoul(argv[10])};
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  for (int i = 0; i < std::stoi(argv[4]); ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    arguments.SetMaxReceiveMessageSize(-1);
    stubs.push_back(std::make_unique<grpc::GenericStub>(
        grpc::CreateCustomChannel(argv[1], grpc::InsecureChannelCredentials(), arguments)));
  }
  ReadLanes(load, std::stoul(argv[6]), stubs);
  const double warm = std::stod(argv[8]), seconds = std::stod(argv[9]);
  const pid_t server = std::stoi(argv[11]);

  const double start = Now();
  for (auto& lane : load.lanes) load.Open(*lane);
  load.Until(start + 120, [&] { return load.unopened == 0; });
  const double opened = Now() - start;
  load.Until(Now() + warm, [] { return false; });
  const double server_cpu = CpuOf(server), client_cpu = Clock(CLOCK_PROCESS_CPUTIME_ID), began = Now();
  load.measuring = true;
  load.Until(began + seconds, [] { return false; });
  const long callers = std::min(std::stoul(argv[6]), load.lanes.size());
  load.Until(began + seconds + kPatience, [&] { return load.measured + load.failures >= callers; });
  load.measuring = false;
  const double took = Now() - began, server_used = CpuOf(server) - server_cpu;
  const double client_used = Clock(CLOCK_PROCESS_CPUTIME_ID) - client_cpu;
  load.stopped = true;
  load.Until(Now() + 10, [&] { return load.flying == 0; });

  // From a lane's first reply to its last there is a whole number of messages, however long a message takes.
  double rate = 0;
  for (auto& lane : load.lanes)
    if (lane->replies > 1 && lane->last > lane->first) rate += (lane->replies - 1) / (lane->last - lane->first);
  printf("{\"rate\": %.6g, \"opened_s\": %.6g, \"failures\": %ld, \"unopened\": %ld, \"server_busy\": %.6g, \"client_busy\": %.6g}\n",
         rate, opened, load.failures, load.unopened, server_used / took, client_used / took);
  fwrite(load.latencies.data(), sizeof(float), load.latencies.size(), stdout);
  fflush(stdout);
  _Exit(0);  // the calls that are open end with the process
}
