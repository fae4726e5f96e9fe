// Numbers of one dtype as those of another.
#pragma once

#include "statecell/model.h"
#include "statecell/tensor.h"

namespace statecell {

// The tensor in the spec's dtype. Floats are rounded to floats; any other number must be held exactly, or DtypeMismatch is
// thrown.
Tensor convert(const TensorSpec& spec, const Tensor& given);

}  // namespace statecell
