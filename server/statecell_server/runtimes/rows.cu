// Rows between an arena, [slots, lead, width], and a run's own buffer of the same state, [lead, batch, width].
// One thread moves one word; a slot below 0 belongs to a row that only fills the run up, and is left alone.

struct Place {
  char *arena;
  char *run;
  long long lead;
  long long bytes;  // of a row's piece: width times the size of a number
};

template <typename Word>
__device__ void move(const Place *places, const long long *slots, long long batch, int into_arena) {
  const Place place = places[blockIdx.y];
  const long long words = place.bytes / (long long)sizeof(Word);
  const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= place.lead * batch * words) return;
  const long long piece = index / words;
  const long long slot = slots[piece % batch];
  if (slot < 0) return;
  Word *run = (Word *)place.run + index;
  Word *arena = (Word *)place.arena + (slot * place.lead + piece / batch) * words + index % words;
  if (into_arena)
    *arena = *run;
  else
    *run = *arena;
}

extern "C" __global__ void move_16(const Place *places, const long long *slots, long long batch, int into_arena) {
  move<uint4>(places, slots, batch, into_arena);
}

extern "C" __global__ void move_4(const Place *places, const long long *slots, long long batch, int into_arena) {
  move<unsigned int>(places, slots, batch, into_arena);
}

extern "C" __global__ void move_1(const Place *places, const long long *slots, long long batch, int into_arena) {
  move<unsigned char>(places, slots, batch, into_arena);
}
