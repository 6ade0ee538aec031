#include "threads.h"

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace argumbel {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPatience = std::chrono::milliseconds(100);
thread_local void (*hook)() = nullptr;
thread_local Clock::time_point asked;

// Tasks that several threads take, one at a time. No exception leaves `drain`: it would end the process.
struct Region {
    int64_t tasks;
    void (*fn)(void*, int64_t);
    void* context;
    std::atomic<int64_t> next{0};
    std::mutex failing;
    std::exception_ptr failure;  // the first

    void drain() noexcept {
        try {
            for (int64_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
                ask_whether_to_end();
                fn(context, t);
            }
        } catch (...) {
            next.store(tasks, std::memory_order_relaxed);
            const std::lock_guard<std::mutex> lock(failing);
            if (!failure) failure = std::current_exception();
        }
    }
    void finish() const {
        if (failure) std::rethrow_exception(failure);
    }
};

struct Pool {
    std::mutex owner;  // one parallel region at a time; a second caller runs its tasks alone
    std::vector<std::thread> workers;
    std::atomic<uint32_t> generation{0};
    std::atomic<int> wanted{0}, running{0};
    Region* region = nullptr;

    void work(int index, uint32_t seen) {
        for (;;) {
            for (int spin = 0; spin < 2000 && generation.load(std::memory_order_acquire) == seen; ++spin) {
            }
            generation.wait(seen, std::memory_order_acquire);
            seen = generation.load(std::memory_order_acquire);
            if (index < wanted.load(std::memory_order_relaxed)) region->drain();
            if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
        }
    }

    void run(Region& r, int threads) {
        try {
            while (static_cast<int>(workers.size()) < threads - 1) {
                const int index = static_cast<int>(workers.size());
                workers.emplace_back([this, index, seen = generation.load()] { work(index, seen); });
            }
        } catch (const std::system_error&) {  // no more threads to be had: those that are there do the work
        }
        region = &r;
        wanted.store(threads - 1, std::memory_order_relaxed);
        running.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
        generation.fetch_add(1, std::memory_order_release);
        generation.notify_all();
        r.drain();
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

}  // namespace

Interruptible::Interruptible(void (*to_ask)()) {
    hook = to_ask;
    asked = Clock::now();
}

Interruptible::~Interruptible() { hook = nullptr; }

void ask_whether_to_end() {
    if (!hook) return;
    const auto now = Clock::now();
    if (now - asked < kPatience) return;
    asked = now;
    hook();
}

void use_openmp(OpenMP entry) { openmp = entry; }

void run_tasks(int64_t tasks, int threads, void (*fn)(void*, int64_t), void* context) {
    Region region{tasks, fn, context};
    if (openmp) {
        openmp([](void* shared) { static_cast<Region*>(shared)->drain(); }, &region, static_cast<unsigned>(threads), 0);
    } else if (const std::unique_lock<std::mutex> lock(pool->owner, std::try_to_lock); lock.owns_lock()) {
        pool->run(region, threads);
    } else {
        region.drain();
    }
    region.finish();
}

}  // namespace argumbel
