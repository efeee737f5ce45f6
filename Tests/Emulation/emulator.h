// Runs the CUDA kernels of this repository on the CPU, so that what they compute can be tested without a GPU.
//
// A kernel file compiles as C++ after this header; `ptx.cuh` of this folder stands in for the one of the kernels, with the
// same functions. A block is an operating-system thread and each of its threads a fiber, which runs until it waits; blocks
// beside each other (`resident` of them) may wait for one another. Use it through `emulate.py`:
//
//     add = emulate.Kernel("add.cu", "add", dict(WIDTH=64))       # C++ compiler found by CXX, g++ or clang++
//     add((blocks, 1, 1), threads, x, y, 3, 0.5)                  # numpy arrays, int, float, ctypes structures
//
// What it checks beside the results: shared memory starts as NaN (0xff); wrapped accesses outside of a block's shared memory,
// barriers that were not initialised, counts that do not fit and threads that all wait are errors with a message. What runs
// asynchronously on a GPU can run at once (`lazy=False`) or as late as it may (`lazy=True`: products at the wait for them,
// copies when all threads wait), and threads in order or shuffled (`seed`): what depends on it is a race. What it does not
// check: registers, alignment of collective instructions, missing proxy fences, speed.
//
// Kernels name their dynamic shared memory `extern __shared__ ... unsigned char memory[]`. A new function of the kernels'
// ptx.cuh is added to the ptx.cuh here, and a CUDA built-in that is missing to builtins.h.
#pragma once

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulator {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr size_t MOST_SHARED = 232448;  // dynamic shared memory of a block of an H100

struct Three {
    unsigned x, y, z;
};

struct Launch {
    Three grid, threads;
    size_t shared;  // bytes of dynamic shared memory
    bool lazy;
    unsigned seed;
    double seconds;  // a block that runs longer hangs
};

// ---- fibers ----

#if defined(__x86_64__)
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void **from, void *to);
asm(R"(
.text
.hidden emulator_switch
.globl emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

struct Context {
    void *stack_pointer;

    void start(char *stack, void (*run)()) {
        void **top = reinterpret_cast<void **>(stack + STACK_BYTES);
        *--top = nullptr;  // keeps the stack aligned as after a call
        *--top = reinterpret_cast<void *>(run);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        stack_pointer = top;
    }

    void switch_to(Context &other) { emulator_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
    ucontext_t context;

    void start(char *stack, void (*run)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK_BYTES;
        makecontext(&context, run, 0);
    }

    void switch_to(Context &other) { swapcontext(&context, &other.context); }
};
#endif

// A product of a warpgroup, one thread's share of it.
using Task = std::function<void()>;

struct Fiber {
    Context context;
    Three thread;
    unsigned number, warp, lane;
    bool finished = false;
    bool (*ready)(void *) = nullptr;  // none: can go on
    void *condition = nullptr;
    const char *waits_for = "";
    std::vector<Task> products, copies, stores;                   // not yet in a group
    std::deque<std::vector<Task>> product_groups, copy_groups, store_groups;  // not yet waited for
};

// What the lanes of a warp tell each other; two turns, for a lane may be one ahead.
struct Exchange {
    unsigned mask, arrived = 0;
    uint64_t turn = 0;
    unsigned char in[2][32][32], out[2][32][32];
};

struct NamedBarrier {
    unsigned arrived = 0, expected = 0;
    uint64_t turn = 0;
    bool any[2] = {false, false};
};

struct Failure {
    std::mutex mutex;
    std::string message;
    std::atomic<bool> happened{false};

    void set(const std::string &text) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!happened) message = text;
        happened = true;
    }
};

struct Block;
inline thread_local Block *running = nullptr;

struct Block {
    const Launch *launch;
    Failure *failure;
    Three index;
    char *stacks;
    Context scheduler;
    std::function<void()> body;
    std::vector<Fiber> fibers;
    Fiber *current = nullptr;
    std::vector<std::deque<Exchange>> exchanges;  // of each warp, by mask
    NamedBarrier named[16], all;
    unsigned alive = 0;
    std::deque<Task> later;  // asynchronous copies on their way
    std::mt19937 random;
    char *shared_base = nullptr;
    size_t shared_bytes = 0;

    void run();
    void schedule();
    [[noreturn]] void abandon() {
        current->context.switch_to(scheduler);
        __builtin_unreachable();
    }
};

inline Block &block() { return *running; }
inline Fiber &self() { return *running->current; }

// Ends the launch with a message.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char *format, ...) {
    char text[512], place[96];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    const Block &b = block();
    const Fiber &f = self();
    snprintf(
        place, sizeof place, " (block %u %u %u, thread %u %u %u)", b.index.x, b.index.y, b.index.z, f.thread.x, f.thread.y,
        f.thread.z);
    b.failure->set(std::string(text) + place);
    block().abandon();
}

template <typename Condition>
inline void wait_until(const char *what, Condition condition) {
    if (condition()) return;
    Fiber &f = self();
    f.ready = [](void *c) { return (*static_cast<Condition *>(c))(); };
    f.condition = &condition;
    f.waits_for = what;
    f.context.switch_to(block().scheduler);
    f.ready = nullptr;
}

// Lets other threads run, for loops that look at memory.
inline void pause() {
    self().context.switch_to(block().scheduler);
}

// Runs now, or when all threads wait.
inline void soon(Task task) {
    if (block().launch->lazy) block().later.push_back(std::move(task));
    else task();
}

inline void fiber_main() {
    block().body();
    Fiber &f = self();
    // Copies still on their way land; nobody waits for them.
    for (auto &group : f.copy_groups)
        for (auto &task : group) task();
    for (auto &task : f.copies) task();
    for (auto &group : f.store_groups)
        for (auto &task : group) task();
    for (auto &task : f.stores) task();
    if (!f.products.empty() || !f.product_groups.empty()) fail("a thread ends without waiting for its products");
    f.finished = true;
    Block &b = block();
    --b.alive;
    if (b.all.arrived && b.all.arrived == b.alive) {
        b.all.arrived = 0;
        ++b.all.turn;
    }
    b.abandon();
}

inline void Block::schedule() {
    std::vector<unsigned> order(fibers.size());
    for (unsigned i = 0; i < order.size(); ++i) order[i] = i;
    const auto start = std::chrono::steady_clock::now();
    for (unsigned pass = 0; alive > 0; ++pass) {
        bool progress = false;
        if (launch->seed) std::shuffle(order.begin(), order.end(), random);
        for (unsigned i : order) {
            Fiber &f = fibers[i];
            if (f.finished || (f.ready && !f.ready(f.condition))) continue;
            progress = true;
            current = &f;
            scheduler.switch_to(f.context);
            if (failure->happened) return;
        }
        if (!progress && !later.empty()) {
            const size_t at = launch->seed ? random() % later.size() : 0;
            Task task = std::move(later[at]);
            later.erase(later.begin() + at);
            current = &fibers[0];
            task();
            if (failure->happened) return;
        } else if (!progress) {
            std::string text = "all threads wait:";
            std::vector<std::pair<const char *, std::vector<unsigned>>> kinds;
            for (const Fiber &f : fibers) {
                if (f.finished) continue;
                auto kind = std::find_if(kinds.begin(), kinds.end(), [&](auto &k) { return !strcmp(k.first, f.waits_for); });
                if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {f.waits_for, {}});
                kind->second.push_back(f.number);
            }
            for (auto &kind : kinds)
                text += " " + std::to_string(kind.second.size()) + " for " + kind.first + " (the first " +
                        std::to_string(kind.second[0]) + ");";
            failure->set(text + " block " + std::to_string(index.x) + " " + std::to_string(index.y));
            return;
        }
        if (pass % 64 == 63) {
            std::this_thread::yield();
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
            if (took.count() > launch->seconds) {
                failure->set("a block runs for more than " + std::to_string(launch->seconds) + " s");
                return;
            }
        }
    }
    while (!later.empty()) {
        later.front()();
        later.pop_front();
    }
}

// ---- shared memory: the thread-local variables of this library ----

// Where they lie in this operating-system thread.
inline std::pair<char *, size_t> thread_locals() {
    struct Search {
        uintptr_t here;
        std::pair<char *, size_t> found;
    } search = {reinterpret_cast<uintptr_t>(&thread_locals), {nullptr, 0}};
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *data) {
            Search &s = *static_cast<Search *>(data);
            bool mine = false;
            size_t bytes = 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto &header = info->dlpi_phdr[i];
                const uintptr_t begin = info->dlpi_addr + header.p_vaddr;
                if (header.p_type == PT_LOAD && s.here >= begin && s.here < begin + header.p_memsz) mine = true;
                if (header.p_type == PT_TLS) bytes = header.p_memsz;
            }
            if (mine) s.found = {static_cast<char *>(info->dlpi_tls_data), bytes};
            return mine ? 1 : 0;
        },
        &search);
    return search.found;
}

}  // namespace emulator

// The dynamic shared memory of every kernel.
extern "C" {
thread_local __attribute__((visibility("hidden"))) unsigned char memory[emulator::MOST_SHARED] __attribute__((aligned(1024)));
}

namespace emulator {

// Shared memory as 32-bit addresses, aligned as the bytes are.
inline char *shared_origin() {
    return reinterpret_cast<char *>((reinterpret_cast<uintptr_t>(block().shared_base) & ~uintptr_t(1023)) - 1024);
}

inline char *shared_pointer(uint32_t address, size_t bytes, size_t alignment = 1) {
    char *pointer = shared_origin() + address;
    Block &b = block();
    char *dynamic = reinterpret_cast<char *>(memory);
    if (pointer < b.shared_base || pointer + bytes > b.shared_base + b.shared_bytes)
        fail("shared memory at %#x does not exist", address);
    if (pointer >= dynamic && pointer + bytes > dynamic + b.launch->shared && pointer < dynamic + MOST_SHARED)
        fail("byte %td of dynamic shared memory, of which there are %zu", pointer + bytes - 1 - dynamic, b.launch->shared);
    if (address % alignment) fail("shared memory at %#x is not aligned to %zu bytes", address, alignment);
    return pointer;
}

inline void Block::run() {
    running = this;
    auto [base, bytes] = thread_locals();
    shared_base = base;
    shared_bytes = bytes;
    memset(base, 0xff, bytes);
    running = this;
    const Three &n = launch->threads;
    const unsigned count = n.x * n.y * n.z;
    random.seed(launch->seed * 7919 + index.x);
    fibers = std::vector<Fiber>(count);
    exchanges.resize((count + 31) / 32);
    alive = count;
    for (unsigned i = 0; i < count; ++i) {
        Fiber &f = fibers[i];
        f.number = i;
        f.thread = {i % n.x, i / n.x % n.y, i / n.x / n.y};
        f.warp = i / 32;
        f.lane = i % 32;
        f.context.start(stacks + i * STACK_BYTES, fiber_main);
    }
    schedule();
    const unsigned char *end = memory + MOST_SHARED;
    if (!failure->happened && std::any_of(memory + launch->shared, const_cast<unsigned char *>(end), [](unsigned char c) { return c != 0xff; }))
        failure->set("a block wrote behind its dynamic shared memory");
}

// ---- waiting ----

// All lanes of `mask` meet; the last one runs `act(in, out)` on 32 bytes a lane. Returns this lane's 32 bytes of `out`.
template <typename Value, typename Act>
inline const unsigned char *meet(unsigned mask, const Value &value, Act act) {
    static_assert(sizeof(Value) <= 32, "what a lane hands over");
    Fiber &f = self();
    if (!(mask >> f.lane & 1)) fail("a warp instruction whose mask %#x leaves out the lane itself", mask);
    auto &all = block().exchanges[f.warp];
    auto found = std::find_if(all.begin(), all.end(), [&](const Exchange &e) { return e.mask == mask; });
    if (found == all.end()) {
        all.emplace_back();
        found = all.end() - 1;
        found->mask = mask;
    }
    Exchange &e = *found;
    const uint64_t turn = e.turn;
    memcpy(e.in[turn % 2][f.lane], &value, sizeof value);
    e.arrived |= 1u << f.lane;
    if (e.arrived == mask) {
        e.arrived = 0;
        act(e.in[turn % 2], e.out[turn % 2]);
        ++e.turn;
    } else {
        wait_until("lanes of its warp", [&e, turn] { return e.turn != turn; });
    }
    return e.out[turn % 2][f.lane];
}

inline bool arrive_named(unsigned id, unsigned threads, bool any, uint64_t &turn) {
    if (id >= 16) fail("named barrier %u", id);
    NamedBarrier &b = block().named[id];
    if (threads % 32) fail("named barrier %u of %u threads", id, threads);
    if (b.arrived && b.expected != threads) fail("named barrier %u of %u threads and of %u", id, b.expected, threads);
    b.expected = threads;
    turn = b.turn;
    if (!b.arrived) b.any[turn % 2] = false;
    b.any[turn % 2] |= any;
    if (++b.arrived < threads) return false;
    b.arrived = 0;
    ++b.turn;
    return true;
}

inline bool sync_named(unsigned id, unsigned threads, bool any = false) {
    static const char *names[16] = {
        "named barrier 0", "named barrier 1", "named barrier 2", "named barrier 3", "named barrier 4", "named barrier 5",
        "named barrier 6", "named barrier 7", "named barrier 8", "named barrier 9", "named barrier 10", "named barrier 11",
        "named barrier 12", "named barrier 13", "named barrier 14", "named barrier 15"};
    uint64_t turn;
    NamedBarrier &b = block().named[id];
    if (!arrive_named(id, threads, any, turn)) wait_until(names[id], [&b, turn] { return b.turn != turn; });
    return b.any[turn % 2];
}

// All threads that have not ended.
inline bool sync_all(bool any) {
    Block &b = block();
    NamedBarrier &all = b.all;
    const uint64_t turn = all.turn;
    if (!all.arrived) all.any[turn % 2] = false;
    all.any[turn % 2] |= any;
    if (++all.arrived == b.alive) {
        all.arrived = 0;
        ++all.turn;
    } else {
        wait_until("__syncthreads", [&all, turn] { return all.turn != turn; });
    }
    return all.any[turn % 2];
}

// ---- launching ----

template <typename... Parameters, size_t... Index>
inline void call(void (*kernel)(Parameters...), void **arguments, std::index_sequence<Index...>) {
    kernel(*static_cast<std::remove_const_t<Parameters> *>(arguments[Index])...);
}

template <typename... Parameters>
inline int launch(
    void (*kernel)(Parameters...), const Launch &launch, unsigned resident, void **arguments, char *message, size_t room
) {
    const Three grid = launch.grid;
    const unsigned blocks = grid.x * grid.y * grid.z, count = launch.threads.x * launch.threads.y * launch.threads.z;
    Failure failure;
    if (count == 0 || count > 1024) failure.set("a block of " + std::to_string(count) + " threads");
    if (launch.shared > MOST_SHARED) failure.set(std::to_string(launch.shared) + " bytes of dynamic shared memory");
    std::atomic<unsigned> next{0};
    auto work = [&] {
        const size_t bytes = count * STACK_BYTES;
        char *stacks = static_cast<char *>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (stacks == MAP_FAILED) return failure.set("no memory for stacks");
        for (unsigned i; !failure.happened && (i = next++) < blocks;) {
            Block b;
            b.launch = &launch;
            b.failure = &failure;
            b.index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
            b.stacks = stacks;
            b.body = [&] { call(kernel, arguments, std::index_sequence_for<Parameters...>{}); };
            b.run();
        }
        munmap(stacks, bytes);
    };
    if (!failure.happened) {
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < std::min(resident, blocks); ++i) threads.emplace_back(work);
        for (auto &thread : threads) thread.join();
    }
    snprintf(message, room, "%s", failure.message.c_str());
    return failure.happened;
}

}  // namespace emulator

#include "builtins.h"

// An entry for ctypes: `EMULATE(kernel)` after the kernel's source.
#define EMULATE(KERNEL)                                                                                               \
    extern "C" __attribute__((visibility("default"))) int emulate_##KERNEL(                                          \
        const emulator::Launch *launch, unsigned resident, void **arguments, char *message, size_t room) {           \
        return emulator::launch(KERNEL, *launch, resident, arguments, message, room);                                 \
    }
