// One compiled path: all operations for one instruction set, ARGUMBEL_ARCH, and the table that offers them.
#include "kernels.h"
#define ARGUMBEL_DEFINITIONS
#include "operations.h"

namespace argumbel {

#define ARGUMBEL_JOIN_(a, b) a##b
#define ARGUMBEL_JOIN(a, b) ARGUMBEL_JOIN_(a, b)
#define ARGUMBEL_TEXT_(a) #a
#define ARGUMBEL_TEXT(a) ARGUMBEL_TEXT_(a)
#define ARGUMBEL_ENTRY(operation, ...) ARGUMBEL_ARCH::operation,

extern const Kernels ARGUMBEL_JOIN(kernels_, ARGUMBEL_ARCH) = {ARGUMBEL_TEXT(ARGUMBEL_ARCH),
                                                               ARGUMBEL_OPERATIONS(ARGUMBEL_ENTRY)};

}  // namespace argumbel
