#include "kernel.h"

constexpr glinthawk::KernelTable kTable = make_kernels<Bf16DotStore, Int8DotStore>();
const glinthawk::KernelTable glinthawk::avx512_bf16_kernels = kTable;
