#include "threads.h"

#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace argumbel {
namespace {

struct Pool {
    std::mutex owner;  // one parallel region at a time; a second caller runs its tasks alone
    std::vector<std::thread> workers;
    std::atomic<uint32_t> generation{0};
    std::atomic<int> wanted{0}, running{0};
    std::atomic<int64_t> next{0};
    int64_t tasks = 0;
    void (*fn)(void*, int64_t) = nullptr;
    void* context = nullptr;

    void drain() {
        for (int64_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) fn(context, t);
    }

    void work(int index, uint32_t seen) {
        for (;;) {
            for (int spin = 0; spin < 2000 && generation.load(std::memory_order_acquire) == seen; ++spin) {
            }
            generation.wait(seen, std::memory_order_acquire);
            seen = generation.load(std::memory_order_acquire);
            if (index < wanted.load(std::memory_order_relaxed)) drain();
            if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
        }
    }

    void run(int64_t n, int threads, void (*f)(void*, int64_t), void* c) {
        while (static_cast<int>(workers.size()) < threads - 1) {
            const int index = static_cast<int>(workers.size());
            workers.emplace_back([this, index, seen = generation.load()] { work(index, seen); });
        }
        tasks = n, fn = f, context = c;
        next.store(0, std::memory_order_relaxed);
        wanted.store(threads - 1, std::memory_order_relaxed);
        running.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
        generation.fetch_add(1, std::memory_order_release);
        generation.notify_all();
        drain();
        for (int left, spin = 0; (left = running.load(std::memory_order_acquire)) != 0; ++spin) {
            if (spin > 2000) running.wait(left, std::memory_order_acquire);
        }
    }
};

OpenMP openmp = nullptr;

// Never destroyed: workers sleep on it until the process ends. A forked child starts with a pool of its own.
Pool* pool = new Pool;

#if defined(__unix__) || defined(__APPLE__)
const int at_fork = pthread_atfork(nullptr, nullptr, [] {
    pool = new Pool;
    openmp = nullptr;
});
#endif

struct Region {
    std::atomic<int64_t> next{0};
    int64_t tasks;
    void (*fn)(void*, int64_t);
    void* context;
};

}  // namespace

void use_openmp(OpenMP entry) { openmp = entry; }

void run_tasks(int64_t tasks, int threads, void (*fn)(void*, int64_t), void* context) {
    if (openmp) {
        Region region{{}, tasks, fn, context};
        openmp(
            [](void* shared) {
                Region& r = *static_cast<Region*>(shared);
                for (int64_t t; (t = r.next.fetch_add(1, std::memory_order_relaxed)) < r.tasks;) r.fn(r.context, t);
            },
            &region, static_cast<unsigned>(threads), 0);
        return;
    }
    std::unique_lock<std::mutex> lock(pool->owner, std::try_to_lock);
    if (!lock.owns_lock()) {
        for (int64_t t = 0; t < tasks; ++t) fn(context, t);
        return;
    }
    pool->run(tasks, threads, fn, context);
}

}  // namespace argumbel
