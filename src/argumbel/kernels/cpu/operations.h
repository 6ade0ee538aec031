// The one list of operations: what the paths offer, what the module binds, and what Python calls by name. A row is a name
// and what the operation takes of its own, after the matrix, the key and the number of threads. Its function is defined in
// one of the headers below, which path.cpp alone wants.
#ifndef ARGUMBEL_OPERATIONS
#define ARGUMBEL_OPERATIONS(X)                                                                                        \
    X(keyed_noise, Law law, void* out)                                                                                \
    X(extreme_row)                                                                                                    \
    X(gumbel_max, void* values, int64_t* indices)                                                                     \
    X(tempered_max, Terms terms, void* values, int64_t* indices)                                                      \
    X(gumbel_topk, int64_t k, void* values, int64_t* indices)                                                         \
    X(gumbel_softmax, const void* tau, int64_t tau_stride, bool hard, void* out)                                      \
    X(gumbel_softmax_backward, const void* grad, int64_t grad_stride, const void* tau, int64_t tau_stride, void* out) \
    X(gumbel_softmax_backward_keyed, const void* grad, int64_t grad_stride, const void* tau, int64_t tau_stride,      \
      void* out)                                                                                                      \
    X(gumbel_sigmoid, const float* tau, bool hard, void* out)                                                         \
    X(posterior_gumbel, const int64_t* index, const void* value, void* out)                                           \
    X(categorical, int64_t draws, double* log_z, int64_t* out)                                                        \
    X(limited_categorical, Limits limits, int64_t draws, int64_t* out)                                                \
    X(truncation, Limits limits, float* cut, int64_t* last)                                                           \
    X(sample_without_replacement, int64_t k, void* values, int64_t* indices)                                          \
    X(arrivals, Law law, double lo, const double* bars, const int32_t* groups, int64_t n_bars, int64_t first,         \
      double* times, int64_t* positions, int64_t* count)                                                              \
    X(exact_sums, const int32_t* groups, int64_t n_groups, int64_t* counts, int64_t* limbs, int64_t* range)           \
    X(spanning_tree, int64_t n, bool race, bool* tree, int64_t* chosen, int64_t* rounds)                              \
    X(spanning_tree_log_partition, int64_t n, double* out)                                                            \
    X(spanning_tree_marginals, int64_t n, double* out)                                                                \
    X(spanning_tree_covariance, int64_t n, const double* direction, double* out)                                      \
    X(tree_log_partition, int64_t n, bool single, double* out)                                                        \
    X(tree_marginals, int64_t n, bool single, double* out)                                                            \
    X(tree_covariance, int64_t n, bool single, const double* direction, double* out)                                  \
    X(viterbi, int64_t n, int64_t* path, double* best)                                                                \
    X(chain_log_partition, int64_t n, double* out)                                                                    \
    X(chain_marginals, int64_t n, double* out)                                                                        \
    X(chain_covariance, int64_t n, const double* direction, double* out)                                              \
    X(arborescence, int64_t n, int64_t root, bool single, bool race, bool* tree, int64_t* chosen, bool* alive)        \
    X(subset_log_partition, int64_t k, double* out)                                                                   \
    X(subset_marginals, int64_t k, double* out)                                                                       \
    X(subset_covariance, int64_t k, const double* direction, double* out)

#endif

#ifdef ARGUMBEL_DEFINITIONS
#include "arborescence.h"
#include "arrivals.h"
#include "chain.h"
#include "fill.h"
#include "law.h"
#include "limited.h"
#include "mesh.h"
#include "posterior.h"
#include "race.h"
#include "sigmoid.h"
#include "softmax.h"
#include "subset.h"
#include "sums.h"
#include "topk.h"
#include "tree.h"
#include "truncation.h"
#include "without_replacement.h"
#endif
