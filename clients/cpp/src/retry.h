// When a call is sent again, where to, and after how long.
#pragma once

#include <chrono>
#include <exception>
#include <string>
#include <vector>

#include "statecell/client.h"
#include "statecell/errors.h"

namespace statecell {

// Which of the addresses serves a call.
struct Route {
  const std::vector<std::string>* addresses;
  std::size_t index = 0;
  bool session = false;
  bool durable = false;

  const std::string& address() const { return (*addresses)[index]; }
  void next() { index = (index + 1) % addresses->size(); }
  // To the next address, where one may help: a session in one server's memory is only there.
  void move_on(const StatecellError& error);
  // The route of a session that is here.
  Route of_session(bool durable) const { return {addresses, index, true, durable}; }
};

// One call's attempts.
class Attempts {
 public:
  using Clock = std::chrono::system_clock;

  // `reached`: whether any of the addresses ever answered. What never did is a wrong address, and is not waited for.
  Attempts(Route& route, const Retry& retry, bool reached, std::chrono::milliseconds timeout)
      : route_(route), retry_(retry), reached_(reached), deadline_(Clock::now() + timeout) {}

  // When the attempts are over.
  Clock::time_point deadline() const { return deadline_; }
  // In the handler of `error`: how long to wait before the next attempt, at the route's address; rethrows it where there is to
  // be none.
  std::chrono::milliseconds failed(StatecellError& error);

 private:
  // When the time runs out in the middle of an attempt, what the time went on is said.
  [[noreturn]] void rethrow_last();
  std::chrono::milliseconds pause(const StatecellError& error) const;

  Route& route_;
  const Retry& retry_;
  bool reached_;
  Clock::time_point deadline_;
  int failures_ = 0;
  bool settled_ = true;
  std::exception_ptr last_;
};

}  // namespace statecell
