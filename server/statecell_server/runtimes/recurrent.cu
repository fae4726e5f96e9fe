// One time step of one LSTM, GRU or RNN layer, for rows anywhere in an arena: products, gates and the next state in one launch.
//
// A gate's sum has one order, whatever the batch: its bias, then one piece for each 32 columns of x, then one for each 32 columns of
// h, and a piece is 32 fused multiply-adds from zero, column after column. So a row has the same bits in any run. The kernels differ
// in who sums what: of `few` and `many` each warp of a block has a piece of its own, of `most` all of them go from piece to piece.

enum Cell { LSTM, GRU, RNN };

struct Step {
  const float *weights;      // [pieces * 32, units, gates], zeros where x, h or the units end within a piece
  const float *bias;         // [gates, units]; a GRU has one gate more, the recurrent bias of its last
  const float *x;            // row r at x + r * x_stride
  const float *h;            // row r at h + source * h_stride; the source of row r is r where there are no sources
  const float *c;            // likewise, of an LSTM
  const long long *sources;  // [batch]
  float *y;                  // row r at y + r * y_stride: the next h
  float *h_n;                // the next h once more, row r at h_n + target * h_n_stride; or none
  float *c_n;                // likewise, of an LSTM
  const long long *targets;  // [batch]; a row whose target is below 0 ends nowhere
  long long x_stride, h_stride, c_stride, y_stride, h_n_stride, c_n_stride;
  int batch, inputs, hidden, units, x_pieces, pieces;
  int relu;  // of an RNN; else tanh
};

constexpr int WIDTH = 32;  // of a piece, and lanes of a warp
constexpr int GROUP = 8;   // units of a block of `few`

constexpr __device__ int gates_of(Cell cell) { return cell == LSTM ? 4 : cell == GRU ? 3 : 1; }

// The columns that a piece multiplies: of x, or of h from its own first piece on.
struct Factors {
  const float *base;  // of this lane's column
  long long stride;
  bool inside;

  __device__ Factors(const Step &s, int piece, int column) {
    const bool of_x = piece < s.x_pieces;
    const int wanted = (of_x ? piece : piece - s.x_pieces) * WIDTH + column;
    inside = wanted < (of_x ? s.inputs : s.hidden);
    base = (of_x ? s.x : s.h) + (inside ? wanted : 0);
    stride = of_x ? s.x_stride : s.h_stride;
  }
};

// Begins to copy a number to shared memory, or a zero; `arrived` waits for all but the last LATER groups of them.
__device__ void begin_copy(float *to, const float *from, bool inside) {
#ifdef __CUDA_ARCH__
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(inside ? 4 : 0) : "memory");
#else
  *to = inside ? *from : 0.0f;
#endif
}

__device__ void begin_copy_of_four(float *to, const float *from) {
#ifdef __CUDA_ARCH__
  const unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
#else
  *(float4 *)to = *(const float4 *)from;
#endif
}

__device__ void commit() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LATER>
__device__ void arrived() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
  __syncwarp();
}

__device__ long long source_of(const Step &s, int row) { return s.sources ? s.sources[row] : row; }

// What the next state of a unit is made of beside its sums: c, or a GRU's h.
template <Cell CELL>
__device__ float before(const Step &s, long long source, int unit) {
  const int column = unit < s.hidden ? unit : 0;
  return CELL == LSTM ? s.c[source * s.c_stride + column] : CELL == GRU ? s.h[source * s.h_stride + column] : 0.0f;
}

__device__ float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

// What follows the sums of one unit of one row. Of a GRU, gate[2] is the sum over x, and gate[3] over h.
template <Cell CELL>
__device__ void finish(const Step &s, int row, int unit, float before, const float *gate) {
  if (row >= s.batch || unit >= s.hidden) return;
  const long long target = s.targets ? s.targets[row] : row;
  float h;
  if (CELL == LSTM) {
    const float c = fmaf(sigmoid(gate[2]), before, sigmoid(gate[0]) * tanhf(gate[3]));
    h = sigmoid(gate[1]) * tanhf(c);
    if (target >= 0) s.c_n[target * s.c_n_stride + unit] = c;
  } else if (CELL == GRU) {
    const float kept = sigmoid(gate[0]);
    const float fresh = tanhf(fmaf(sigmoid(gate[1]), gate[3], gate[2]));
    h = fmaf(kept, before, (1.0f - kept) * fresh);
  } else {
    h = !s.relu ? tanhf(gate[0]) : gate[0] < 0.0f ? 0.0f : gate[0];
  }
  s.y[row * s.y_stride + unit] = h;
  if (s.h_n && target >= 0) s.h_n[target * s.h_n_stride + unit] = h;
}

// COUNT numbers that lie side by side, in as few loads as their alignment allows.
template <int COUNT>
__device__ void take(float *to, const float *from) {
#pragma unroll
  for (int i = 0; i < COUNT; i += COUNT % 4 ? 2 : 4)
    if (COUNT % 4)
      *(float2 *)&to[i] = *(const float2 *)&from[i];
    else
      *(float4 *)&to[i] = *(const float4 *)&from[i];
}

// 8 units and ROWS rows a block of 32 warps: a lane is one unit of one gate, a warp one piece of all of them.
template <Cell CELL, int ROWS>
__device__ void few(const Step &s) {
  constexpr int GATES = gates_of(CELL), WARPS = 32;
  __shared__ __align__(16) float shared[WARPS][ROWS][WIDTH];  // a warp's factors, then its sums
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int first = blockIdx.x * ROWS, group = blockIdx.y;
  const int unit = group * GROUP + lane / GATES, own = lane % GATES;
  const bool summing = lane < GATES * GROUP, adding = warp < ROWS && summing;
  const bool parted = CELL == GRU && own == 2;  // two sums: one over x, one over h
  const long long pitch = (long long)s.units * GATES;
  const int last = s.batch - 1;
  float total = adding ? s.bias[(parted ? 3 : own) * s.units + unit] : 0.0f;
  float over_x = adding && parted ? s.bias[2 * s.units + unit] : 0.0f, was = 0.0f;
  if (warp < ROWS && lane < GROUP) was = before<CELL>(s, source_of(s, min(first + warp, last)), group * GROUP + lane);
  for (int begin = 0; begin < s.pieces; begin += WARPS) {
    const int piece = begin + warp;
    if (piece < s.pieces) {
      const float *weights = s.weights + piece * WIDTH * pitch + group * GATES * GROUP + (summing ? lane : 0);
      float weight[WIDTH], sum[ROWS], factor[ROWS];
      long long row[ROWS];
#pragma unroll
      for (int k = 0; k < WIDTH; ++k) weight[k] = weights[k * pitch];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) row[r] = min(first + r, last), sum[r] = 0.0f;
      if (s.sources && piece >= s.x_pieces)
#pragma unroll
        for (int r = 0; r < ROWS; ++r) row[r] = s.sources[row[r]];
      const Factors factors(s, piece, lane);
#pragma unroll
      for (int r = 0; r < ROWS; ++r) factor[r] = factors.base[row[r] * factors.stride];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) shared[warp][r][lane] = factors.inside ? factor[r] : 0.0f;
      __syncwarp();
#pragma unroll
      for (int k = 0; k < WIDTH; k += 4) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const float4 v = *(const float4 *)&shared[warp][r][k];
          sum[r] = fmaf(v.x, weight[k], sum[r]);
          sum[r] = fmaf(v.y, weight[k + 1], sum[r]);
          sum[r] = fmaf(v.z, weight[k + 2], sum[r]);
          sum[r] = fmaf(v.w, weight[k + 3], sum[r]);
        }
      }
      __syncwarp();
#pragma unroll
      for (int r = 0; r < ROWS; ++r) shared[warp][r][lane] = sum[r];
    }
    __syncthreads();
    if (adding) {
      const int ready = min(WARPS, s.pieces - begin);
#pragma unroll 8
      for (int p = 0; p < ready; ++p) {
        if (parted && begin + p < s.x_pieces)
          over_x += shared[p][warp][lane];
        else
          total += shared[p][warp][lane];
      }
    }
    __syncthreads();
  }
  if (warp < ROWS) {
    if (summing) shared[warp][0][lane] = parted ? over_x : total;
    if (summing && parted) shared[warp][0][GATES * GROUP + lane / GATES] = total;
    __syncwarp();
    if (lane < GROUP) {
      float gate[4];
#pragma unroll
      for (int g = 0; g < GATES; ++g) gate[g] = shared[warp][0][lane * GATES + g];
      if (CELL == GRU) gate[3] = shared[warp][0][GATES * GROUP + lane];
      finish<CELL>(s, first + warp, group * GROUP + lane, was, gate);
    }
  }
}

// 16 units and 32 rows a block of 16 warps: a lane is all gates of two units of 8 rows, a warp one piece of all of them.
template <Cell CELL>
__device__ void many(const Step &s) {
  constexpr int GATES = gates_of(CELL), COLUMNS = 2 * GATES, ROWS = 8, WARPS = 16, TILE = 4 * ROWS, PITCH = TILE + 4;
  constexpr int FILL = 8, AHEAD = 2;                  // columns of factors, and of weights, that are there before they are needed
  constexpr int SUMS = 2 * ROWS, OWN = SUMS / WARPS;  // of a gate: that a thread makes, and that it adds up to a total
  constexpr int ROOM = 2 * FILL * PITCH > SUMS * WIDTH ? 2 * FILL * PITCH : SUMS * WIDTH;
  // A warp's factors, [2, FILL, PITCH], of which one half is filled while the other is used; then its sums of a gate, [SUMS, WIDTH].
  __shared__ __align__(16) float shared[WARPS][ROOM];
  __shared__ long long sources[TILE];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const int first = blockIdx.x * TILE, last = s.batch - 1, rows = lane / 8 * ROWS, unit = blockIdx.y * 16 + lane % 8 * 2;
  const long long pitch = (long long)s.units * GATES;
  for (int row = warp * WIDTH + lane; row < TILE; row += WARPS * WIDTH) sources[row] = source_of(s, min(first + row, last));
  __syncthreads();
  float total[OWN][4];
#pragma unroll
  for (int o = 0; o < OWN; ++o)
#pragma unroll
    for (int g = 0; g < (CELL == GRU ? 4 : GATES); ++g) total[o][g] = s.bias[g * s.units + unit + (warp + WARPS * o) % 2];
  for (int begin = 0; begin < s.pieces; begin += WARPS) {
    const int piece = begin + warp;
    const float none = piece < s.pieces ? 0.0f : -0.0f;  // which, added, changes nothing, not even the sign of a zero
    float sum[ROWS][COLUMNS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sum[r][c] = none;
    if (piece < s.pieces) {
      const bool of_x = piece < s.x_pieces;
      const float *weights = s.weights + piece * WIDTH * pitch + unit * GATES;
      float next[AHEAD][COLUMNS];
      const auto fill = [&](int at) {
        const Factors factors(s, piece, at + lane % FILL);
        float *to = &shared[warp][(at / FILL % 2 * FILL + lane % FILL) * PITCH];
#pragma unroll 4
        for (int row = lane / FILL; row < TILE; row += WIDTH / FILL) {
          const long long source = of_x ? (long long)min(first + row, last) : sources[row];
          begin_copy(to + row, factors.base + source * factors.stride, factors.inside);
        }
        commit();
      };
      fill(0);
#pragma unroll
      for (int k = 0; k < AHEAD; ++k) take<COLUMNS>(next[k], weights + k * pitch);
#pragma unroll 1
      for (int at = 0; at < WIDTH; at += AHEAD) {
        if (at % FILL == 0) {
          __syncwarp();
          if (at + FILL < WIDTH) {
            fill(at + FILL);
            arrived<1>();
          } else {
            arrived<0>();
          }
        }
        float weight[AHEAD][COLUMNS];
#pragma unroll
        for (int k = 0; k < AHEAD; ++k)
#pragma unroll
          for (int c = 0; c < COLUMNS; ++c) weight[k][c] = next[k][c];
        if (at + AHEAD < WIDTH) {
          weights += AHEAD * pitch;
#pragma unroll
          for (int k = 0; k < AHEAD; ++k) take<COLUMNS>(next[k], weights + k * pitch);
        }
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
          float v[ROWS];
          take<ROWS>(v, &shared[warp][(at % (2 * FILL) + k) * PITCH + rows]);
#pragma unroll
          for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) sum[r][c] = fmaf(v[r], weight[k][c], sum[r][c]);
        }
      }
      __syncwarp();
    }
#pragma unroll
    for (int g = 0; g < GATES; ++g) {
#pragma unroll
      for (int i = 0; i < SUMS; ++i) shared[warp][i * WIDTH + lane] = sum[i / 2][i % 2 * GATES + g];
      __syncthreads();
#pragma unroll
      for (int o = 0; o < OWN; ++o)
#pragma unroll
        for (int p = 0; p < WARPS; ++p) {
          const float piece_sum = shared[p][(warp + WARPS * o) * WIDTH + lane];
          if (CELL == GRU && g == 2 && begin + p >= s.x_pieces)
            total[o][3] += piece_sum;
          else
            total[o][g] += piece_sum;
        }
      __syncthreads();
    }
  }
#pragma unroll
  for (int o = 0; o < OWN; ++o) {
    const int i = warp + WARPS * o, row = rows + i / 2;
    finish<CELL>(s, first + row, unit + i % 2, before<CELL>(s, sources[row], unit + i % 2), total[o]);
  }
}

// 32 units and 128 rows a block of 4 x 2 warps: a lane is all gates of two units of 8 rows, and sums piece after piece.
template <Cell CELL>
__device__ void most(const Step &s) {
  constexpr int GATES = gates_of(CELL), COLUMNS = 2 * GATES, ROWS = 8, TILE = 128, PITCH = TILE + 4, UNITS = 32;
  constexpr int FILL = 8, STAGES = 4, THREADS = 256;  // columns of factors and weights at a time, and how many times are under way
  __shared__ __align__(16) float factors_of[STAGES][FILL][PITCH];
  __shared__ __align__(16) float weights_of[STAGES][FILL][UNITS * GATES];
  __shared__ long long sources[TILE];
  const int lane = threadIdx.x, warp = threadIdx.y, thread = warp * WIDTH + lane;
  const int first = blockIdx.x * TILE, last = s.batch - 1, row = warp / 2 * 32 + lane / 8 * ROWS;
  const int first_unit = blockIdx.y * UNITS, column = (warp % 2 * 16 + lane % 8 * 2) * GATES;
  const int unit = first_unit + column / GATES, fills = s.pieces * (WIDTH / FILL);
  const long long pitch = (long long)s.units * GATES;
  if (thread < TILE) sources[thread] = source_of(s, min(first + thread, last));
  __syncthreads();
  const auto fill = [&](int n) {
    if (n < fills) {
      const int piece = n / (WIDTH / FILL), at = n % (WIDTH / FILL) * FILL;
      const Factors factors(s, piece, at + thread % FILL);
#pragma unroll
      for (int r = thread / FILL; r < TILE; r += THREADS / FILL) {
        const long long source = piece < s.x_pieces ? (long long)min(first + r, last) : sources[r];
        begin_copy(&factors_of[n % STAGES][thread % FILL][r], factors.base + source * factors.stride, factors.inside);
      }
      constexpr int FOURS = UNITS * GATES / 4;
      if (thread < FILL * FOURS) {
        const float *from = s.weights + (piece * WIDTH + at + thread / FOURS) * pitch + first_unit * GATES + thread % FOURS * 4;
        begin_copy_of_four(&weights_of[n % STAGES][thread / FOURS][thread % FOURS * 4], from);
      }
    }
    commit();
  };
  float total[ROWS][2][4], sum[ROWS][COLUMNS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sum[r][c] = 0.0f;
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int g = 0; g < (CELL == GRU ? 4 : GATES); ++g) total[r][u][g] = s.bias[g * s.units + unit + u];
#pragma unroll
  for (int n = 0; n < STAGES - 1; ++n) fill(n);
#pragma unroll 1
  for (int n = 0; n < fills; ++n) {
    arrived<STAGES - 2>();
    __syncthreads();
    fill(n + STAGES - 1);
#pragma unroll
    for (int k = 0; k < FILL; ++k) {
      float v[ROWS], weight[COLUMNS];
      take<ROWS>(v, &factors_of[n % STAGES][k][row]);
      take<COLUMNS>(weight, &weights_of[n % STAGES][k][column]);
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sum[r][c] = fmaf(v[r], weight[c], sum[r][c]);
    }
    if (n % (WIDTH / FILL) == WIDTH / FILL - 1) {
      const bool over_h = CELL == GRU && n / (WIDTH / FILL) >= s.x_pieces;
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          const int u = c / GATES, g = c % GATES;
          if (g == 2 && over_h)
            total[r][u][3] += sum[r][c];
          else
            total[r][u][g] += sum[r][c];
          sum[r][c] = 0.0f;
        }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int u = 0; u < 2; ++u)
      finish<CELL>(s, first + row + r, unit + u, before<CELL>(s, sources[row + r], unit + u), total[r][u]);
}

#define KERNELS(name, cell)                                                                                   \
  extern "C" __global__ void __launch_bounds__(1024) name##_few_1(const Step step) { few<cell, 1>(step); }    \
  extern "C" __global__ void __launch_bounds__(1024) name##_few_4(const Step step) { few<cell, 4>(step); }    \
  extern "C" __global__ void __launch_bounds__(1024) name##_few_8(const Step step) { few<cell, 8>(step); }    \
  extern "C" __global__ void __launch_bounds__(512, 1) name##_many_32(const Step step) { many<cell>(step); }  \
  extern "C" __global__ void __launch_bounds__(256, 1) name##_most_128(const Step step) { most<cell>(step); }

KERNELS(lstm, LSTM)
KERNELS(gru, GRU)
KERNELS(rnn, RNN)
