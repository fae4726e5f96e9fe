#include "retry.h"

#include <algorithm>
#include <random>

namespace statecell {
namespace {

constexpr int kUnavailable = 14;

double random_part() {
  thread_local std::mt19937 generator{std::random_device{}()};
  return std::uniform_real_distribution<double>(0.5, 1.0)(generator);
}

}  // namespace

void Route::move_on(const StatecellError& error) {
  if (!session || (durable && error.code() == kUnavailable)) next();
}

std::chrono::milliseconds Attempts::failed(StatecellError& error) {
  settled_ = settled_ && error.settled();
  if (!settled_) error.unsettle();
  if (last_ && dynamic_cast<DeadlineExceeded*>(&error)) rethrow_last();
  if (!error.may_pass()) throw;
  last_ = std::current_exception();
  ++failures_;
  const bool everywhere = failures_ >= static_cast<int>(route_.addresses->size());
  if (!reached_ && everywhere && dynamic_cast<ServerUnreachable*>(&error)) throw;
  const std::size_t before = route_.index;
  route_.move_on(error);
  const bool at_once = route_.index != before && !everywhere;
  const std::chrono::milliseconds wait = at_once ? std::chrono::milliseconds(0) : pause(error);
  if (Clock::now() + wait >= deadline_) throw;
  return wait;
}

void Attempts::rethrow_last() {
  try {
    std::rethrow_exception(last_);
  } catch (StatecellError& error) {
    error.unsettle();
    throw;
  }
}

std::chrono::milliseconds Attempts::pause(const StatecellError& error) const {
  const double doubled = static_cast<double>(retry_.first_pause.count()) * static_cast<double>(1u << std::min(failures_ - 1, 30));
  const double longest = std::min(doubled, static_cast<double>(retry_.longest_pause.count()));
  const std::chrono::milliseconds own(static_cast<std::int64_t>(longest * random_part()));
  return std::max(own, error.retry_after().value_or(std::chrono::milliseconds(0)));
}

}  // namespace statecell
