// Cuts a ragged batch into pieces of nearly equal cost, once per decode step; every layer reads the result.
//
// pieces: [workers + items + 2 workers] (the first `workers` are the heads of the workers' lists);
// splits: [workers] items that were cut; split_count: [1]; arrivals: [2 workers][lanes], set to 0 (a decode kernel
// announces partial results there). At most 2 x workers partial results (slots), at most 2 by one worker.
//
// Two policies. Even: every item is cut into equal parts, at most one part to a worker, where that comes within
// `slack_percent` of perfect balance; it makes the fewest partial results. Otherwise contiguous: the items in a
// row are cut wherever a worker's share ends. A share counts blocks plus `piece_cost` a piece (query load, first
// latency, output), and may be exceeded by the slack where that spares a cut: a partial result costs memory
// traffic and a combine step.
#include "ptx.cuh"
#include "schedule.cuh"

#define THREADS 256
#define CHUNK 1024

// Sum over the block, known to all threads.
__device__ long long block_sum(long long x, u64 *shared) {
    __syncthreads();
    if (threadIdx.x == 0) *shared = 0;
    __syncthreads();
    atomicAdd(shared, (u64)x);
    __syncthreads();
    return (long long)*shared;
}

struct Plan {
    Piece *pieces;
    SplitItem *splits;
    int fresh, slot, cuts, tail;

    __device__ void add(int worker, bool first, Piece piece, bool whole) {
        int place = first ? worker : fresh++;
        piece.slot = whole ? -1 : slot++;
        piece.split = cuts;
        if (!first) pieces[tail].next = place;
        pieces[place] = piece;
        tail = place;
    }

    __device__ void finish(int sequence, int outer, int first_slot) {
        if (slot > first_slot) splits[cuts++] = {sequence, outer, first_slot, slot - first_slot};
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) decode_schedule(
    const int *__restrict__ lengths, int batch, int outers, int workers, int block_tokens, int piece_cost,
    int slack_percent, Piece *__restrict__ pieces, SplitItem *__restrict__ splits, u32 *__restrict__ arrivals,
    int lanes, int *__restrict__ split_count
) {
    __shared__ int chunk[CHUNK];
    __shared__ u64 scratch;
    const int thread = threadIdx.x;
    for (int i = thread; i < workers; i += THREADS) pieces[i] = {-1, 0, 0, 0, 0, -1, -1, 0};
    for (int i = thread; i < 2 * workers * lanes; i += THREADS) arrivals[i] = 0;
    long long mine = 0;
    for (int i = thread; i < batch; i += THREADS) {
        int blocks = (lengths[i] + block_tokens - 1) / block_tokens;
        mine += blocks;
    }
    const long long total = block_sum(mine, &scratch) * outers;

    // The smallest part size at which the parts are no more than the workers.
    int part = 1 << 30;
    if ((long long)batch * outers <= workers) {
        long long low = max(1LL, total / workers), high = low + total + 1;
        while (low < high) {
            long long middle = (low + high) / 2, parts = 0;
            for (int i = thread; i < batch; i += THREADS) {
                int blocks = (lengths[i] + block_tokens - 1) / block_tokens;
                parts += max(1LL, (blocks + middle - 1) / middle);
            }
            if (block_sum(parts, &scratch) * outers <= workers) high = middle;
            else low = middle + 1;
        }
        part = (int)low;
    }
    const bool even = (long long)part * workers * 100 <= total * (100 + slack_percent) + 100LL * workers;

    Plan plan = {pieces, splits, workers, 0, 0, -1};
    long long remaining = total;  // blocks not yet given out
    int items = batch * outers;   // items not yet finished
    int worker = 0, filled = 0, target = 0, peak = 0;
    for (int base = 0; base < batch; base += CHUNK) {
        const int count = min(CHUNK, batch - base);
        __syncthreads();
        for (int i = thread; i < count; i += THREADS) chunk[i] = lengths[base + i];
        __syncthreads();
        if (thread != 0) continue;
        for (int item = 0; item < count * outers; ++item) {
            const int sequence = base + item / outers, outer = item % outers, length = chunk[item / outers];
            const int blocks = (length + block_tokens - 1) / block_tokens;
            const int first_slot = plan.slot;
            if (even) {
                const int parts = max(1, (blocks + part - 1) / part);
                for (int i = 0; i < parts; ++i) {
                    const int from = (int)((long long)blocks * i / parts), to = (int)((long long)blocks * (i + 1) / parts);
                    plan.add(worker++, true, {sequence, outer, from, to, length, -1, -1, 0}, parts == 1);
                }
            } else {
                int done = 0;
                while (true) {
                    if (filled == 0) {
                        const int left_workers = workers - worker;
                        target = (int)((remaining + (long long)piece_cost * items + left_workers - 1) / left_workers)
                            + (items < left_workers ? piece_cost : 0);
                    }
                    const int left = blocks - done;
                    const int room = target - filled - piece_cost;
                    const bool fits = worker == workers - 1 || left <= room + target * slack_percent / 100
                        || filled + left + piece_cost <= peak;
                    int take = fits ? left : room;
                    if (take < left && take <= piece_cost) {
                        if (filled > 0) {
                            ++worker;
                            filled = 0;
                            continue;
                        }
                        take = min(left, piece_cost + 1);
                    }
                    plan.add(worker, filled == 0, {sequence, outer, done, done + take, length, -1, -1, 0}, take == blocks);
                    filled += take + piece_cost;
                    peak = max(peak, filled);
                    remaining -= take;
                    done += take;
                    if (done == blocks) break;
                    ++worker;
                    filled = 0;
                }
                --items;
            }
            plan.finish(sequence, outer, first_slot);
        }
    }
    if (thread == 0) *split_count = plan.cuts;
}
