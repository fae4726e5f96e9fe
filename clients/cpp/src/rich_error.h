// Errors as they come from a server.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "statecell/v1/inference.pb.h"

namespace statecell {

// Throws the exception for a call that ended with an error status, from the google.rpc details where there are any.
[[noreturn]] void raise(const grpc::Status& status, const std::string& address);

// Throws the exception for one session's failed step in a stream's reply.
[[noreturn]] void raise(const v1::StepError& error);

}  // namespace statecell
