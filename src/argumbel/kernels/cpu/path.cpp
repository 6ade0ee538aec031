// One compiled path: all operations for one instruction set, ARGUMBEL_ARCH, and the table that offers them.
#include "fill.h"
#include "law.h"
#include "posterior.h"
#include "race.h"
#include "softmax.h"
#include "swor.h"
#include "topk.h"

namespace argumbel {

#define ARGUMBEL_JOIN_(a, b) a##b
#define ARGUMBEL_JOIN(a, b) ARGUMBEL_JOIN_(a, b)
#define ARGUMBEL_TEXT_(a) #a
#define ARGUMBEL_TEXT(a) ARGUMBEL_TEXT_(a)

extern const Kernels ARGUMBEL_JOIN(kernels_, ARGUMBEL_ARCH) = {
    ARGUMBEL_TEXT(ARGUMBEL_ARCH),
    ARGUMBEL_ARCH::noise,
    ARGUMBEL_ARCH::bad_row,
    ARGUMBEL_ARCH::gumbel_max,
    ARGUMBEL_ARCH::gumbel_softmax,
    ARGUMBEL_ARCH::gumbel_softmax_backward,
    ARGUMBEL_ARCH::gumbel_softmax_backward_keyed,
    ARGUMBEL_ARCH::categorical,
    ARGUMBEL_ARCH::gumbel_topk,
    ARGUMBEL_ARCH::posterior_gumbel,
    ARGUMBEL_ARCH::sample_without_replacement,
};

}  // namespace argumbel
