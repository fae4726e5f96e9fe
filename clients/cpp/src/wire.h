// Between statecell.v1 messages and the library's own types.
#pragma once

#include "statecell/model.h"
#include "statecell/v1/inference.pb.h"

namespace statecell {

Model read(const v1::Model& message);
SessionInfo read(const v1::Session& message);
Snapshot read(const v1::Snapshot& message);

template <class Repeated>
Tensors read_tensors(const Repeated& messages) {
  Tensors tensors;
  for (const v1::Tensor& message : messages) {
    Shape shape(message.shape().begin(), message.shape().end());
    tensors.emplace(message.name(), Tensor(static_cast<DType>(message.dtype()), std::move(shape), message.data()));
  }
  return tensors;
}

template <class Repeated>
void write_tensors(const Tensors& tensors, Repeated* messages) {
  for (const auto& [name, tensor] : tensors) {
    v1::Tensor& message = *messages->Add();
    message.set_name(name);
    message.set_dtype(static_cast<v1::DataType>(tensor.dtype()));
    message.mutable_shape()->Add(tensor.shape().begin(), tensor.shape().end());
    message.set_data(tensor.bytes());
  }
}

}  // namespace statecell
