// The kernels of recurrent.cu on the CPU: a thread for each thread of a block, one block after the other.
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
using std::min;

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
struct Index {
  unsigned x, y;
};
static Index blockIdx;
static thread_local Index threadIdx;
static pthread_barrier_t block, warps[32];

static void __syncthreads() { pthread_barrier_wait(&block); }
static void __syncwarp() { pthread_barrier_wait(&warps[threadIdx.y]); }

#include "recurrent.cu"

static void run(void (*kernel)(const Step), unsigned across, unsigned down, unsigned height, const Step &step) {
  pthread_barrier_init(&block, nullptr, 32 * height);
  for (unsigned y = 0; y < height; ++y) pthread_barrier_init(&warps[y], nullptr, 32);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 32 * height; ++i)
    threads.emplace_back([=, &step] {
      threadIdx = {i % 32, i / 32};
      for (unsigned n = 0; n < across * down; ++n) {
        __syncthreads();
        if (i == 0) blockIdx = {n % across, n / across};
        __syncthreads();
        kernel(step);
      }
    });
  for (auto &thread : threads) thread.join();
}

#define LAUNCH(name) \
  extern "C" void launch_##name(unsigned across, unsigned down, unsigned height, const Step *step) { run(name, across, down, height, *step); }
#define LAUNCHES(cell) LAUNCH(cell##_few_1) LAUNCH(cell##_few_4) LAUNCH(cell##_few_8) LAUNCH(cell##_many_32) LAUNCH(cell##_most_128)

LAUNCHES(lstm)
LAUNCHES(gru)
LAUNCHES(rnn)
