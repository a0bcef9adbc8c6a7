#include "kernel.h"

constexpr glinthawk::KernelTable kTable = make_kernels<FloatStore<Bf16>, FloatStore<int8_t>>();
const glinthawk::KernelTable glinthawk::avx2_kernels = kTable;
