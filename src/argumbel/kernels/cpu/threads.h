// Threads: those of the OpenMP runtime that PyTorch has already started, where there is one, else a small pool of our
// own. (PyTorch's threads keep spinning for a while after each of its operations: a second pool would fight them for the
// cores, and wake late.) Work is cut into tasks that any thread may take, so a slow neighbour costs one task.
#pragma once
#include <cstdint>

namespace argumbel {

// Runs fn(context, task) for task = 0, ..., tasks - 1 on at most `threads` threads, the calling one among them. The first
// exception that a task throws ends the work and is thrown again on the calling thread.
void run_tasks(int64_t tasks, int threads, void (*fn)(void*, int64_t), void* context);

// The entry point of that runtime, GOMP_parallel; null for none. A forked child goes back to a pool of its own.
using OpenMP = void (*)(void (*)(void*), void*, unsigned, unsigned);
void use_openmp(OpenMP entry);

// While one exists, long work on this thread asks now and then, between tasks, whether somebody wants to end it: it calls
// `hook`, which may throw.
class Interruptible {
public:
    explicit Interruptible(void (*hook)());
    ~Interruptible();
    Interruptible(const Interruptible&) = delete;
    Interruptible& operator=(const Interruptible&) = delete;
};
void ask_whether_to_end();

template <class F>
void parallel(int64_t tasks, int threads, F&& body) {
    if (threads <= 1 || tasks <= 1) {
        for (int64_t t = 0; t < tasks; ++t) {
            if (t) ask_whether_to_end();
            body(t);
        }
    } else {
        run_tasks(tasks, threads, [](void* f, int64_t t) { (*static_cast<F*>(f))(t); }, &body);
    }
}

}  // namespace argumbel
