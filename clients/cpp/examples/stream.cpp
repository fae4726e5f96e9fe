// Streams a sine through a session, step by step: stream localhost:50051 lstm
//
// The model takes 10 numbers a step, as the models of the tests do.
#include <statecell/client.h>

#include <cmath>
#include <cstdio>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: stream HOST:PORT [MODEL]\n");
    return 2;
  }
  try {
    statecell::Client client(argv[1]);
    statecell::Session session = client.session(argc > 2 ? argv[2] : "lstm");

    std::vector<std::vector<float>> ticks;
    for (int t = 0; t < 5; ++t) ticks.emplace_back(10, std::sin(0.1f * static_cast<float>(t)));

    for (const statecell::Tensor& y : session.stream(ticks)) {
      std::printf("step %lld: y[0] = %.6f\n", static_cast<long long>(session.step_index()), y.values<float>().front());
    }
    std::printf("h_0 has %lld numbers\n", static_cast<long long>(session.state().at("h_0").size()));
  } catch (const statecell::StatecellError& error) {
    std::fprintf(stderr, "%s: %s\n", error.reason().c_str(), error.what());
    return 1;
  }
}
