// How a model's inputs and outputs lie: shapes put on bare numbers, checked before anything is sent.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "statecell/model.h"
#include "statecell/tensor.h"

namespace statecell {

// The sizes of "batch" and "seq_len", as far as they are known.
using Sizes = std::map<std::string, std::int64_t>;

// A session's layout: the model's, with `batch` rows.
class Layout {
 public:
  Layout(ModelSpec spec, int batch) : spec_(std::move(spec)), batch_(batch) {}

  // One time step, given without a time axis and, where the session has one row, with or without a batch axis.
  Tensors step(const Tensors& inputs) const;
  // Any number of time steps in the model's own layout.
  Tensors run(const Tensors& inputs) const;
  // Inputs in pieces of at most `steps` time steps; whole where they do not come apart.
  std::vector<Tensors> cut(const Tensors& inputs, std::int64_t steps) const;
  // The outputs of consecutive pieces as those of one.
  Tensors join(const std::vector<Tensors>& pieces) const;
  // One time step's outputs without the time axis and, where the session has one row, without the batch axis.
  Tensors answer(const Tensors& outputs) const;
  // The name of the only input. Throws InvalidRequest where there are several inputs or outputs.
  const std::string& only_input() const;

 private:
  ModelSpec spec_;
  int batch_;
};

// The tensors in the specs' dtypes and shapes; `sizes` binds "batch" and "seq_len" and learns those unbound. Throws
// InvalidRequest, DtypeMismatch, ShapeMismatch, EmptyTensor.
Tensors conform(const std::vector<TensorSpec>& specs, const Tensors& tensors, Sizes sizes);

// The inputs of the states.
std::vector<TensorSpec> states_of(const ModelSpec& spec);

}  // namespace statecell
