// What the schedule kernel writes and the decode kernels read; all of it lives in device memory.
//
// The decode grid is `workers x lanes` blocks. The lanes of one worker walk the same pieces side by side, each on
// its own (group, row tile), so that what they share (the RoPE key of all groups, the tile of one group) is
// read from device memory once and found in L2 by the others.
#pragma once

// A run of KV blocks of one sequence. 32 bytes, read as two 16-byte words.
struct alignas(16) Piece {
    int sequence;     // -1: the worker has nothing to do
    int outer;        // which set of lanes of that sequence
    int first_block;  // blocks [first_block, last_block)
    int last_block;
    int length;  // tokens in the cache, the step's own included
    int slot;    // where the partial result goes; -1: the piece is the whole sequence, written to the output
    int next;    // the worker's next piece, -1 at the end
    int split;  // with a slot: its item among the splits
};

// One (sequence, outer) cut into several pieces; their blocks merge the partial results.
struct alignas(16) SplitItem {
    int sequence;
    int outer;
    int first_slot;
    int slots;
};
