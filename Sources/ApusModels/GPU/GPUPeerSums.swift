import ApusDistributed
import ApusSynchronization
import ApusTensor

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Sums over ranks on one machine without NCCL: in one kernel every rank reads the parts of the others from the memory of their
/// GPUs, adds them to the residual stream and begins the next norm. For the few rows of a step, where an all-reduce is mostly
/// waiting.
///
/// The memory that ranks share stays as long as the process: others may still read it when a decoder here has gone.
final class GPUPeerSums: Sendable {
    /// `struct PeerSums` of `rank_sums.cu`.
    private struct Operands: BitwiseCopyable {
        typealias Eight = (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)
        var parts: Eight = (0, 0, 0, 0, 0, 0, 0, 0)
        var flags: Eight = (0, 0, 0, 0, 0, 0, 0, 0)
        var begun: UInt64
        var rank: Int32, ranks: Int32, blocks: Int32
        var unused: Int32 = 0
    }

    /// The most ranks.
    private static let mostRanks = 8
    private static let kept = Locked<[any AnyObject & Sendable]>([])

    /// The most rows of a sum.
    let rows: Int
    private let width: Int, slices: Int
    private let rank: Int
    private let own: CUDASharedMemory
    private let others: [CUDAPeerMemory?]
    private let begun: CUDABuffer
    private let kernel: CUDAKernel

    /// Memory for sums that all ranks can reach; nil where not all do: on several machines, without peer access, or where
    /// `APUS_RANK_SUMS` is `nccl`. All ranks call it.
    static func make(
        _ communicator: any Communicator, rows: Int, width: Int, stream: CUDAStream
    ) throws -> GPUPeerSums? {
        let wanted = getenv("APUS_RANK_SUMS").map { String(cString: $0) } != "nccl"
        let size = 2 * rows * width * 2 + communicator.size * rows * slices(width) * 4
        let isPossible = wanted && communicator.size <= mostRanks
        let own = isPossible ? try? CUDASharedMemory(byteCount: size, device: stream.device) : nil
        // The handle, and the machine that it means something on.
        var machine = [CChar](repeating: 0, count: 64)
        gethostname(&machine, machine.count - 1)
        let card: [UInt8] =
            [own == nil ? 0 : 1] + (own?.handle ?? [UInt8](repeating: 0, count: 64))
            + machine.map(UInt8.init(bitPattern:))
        let sent = Tensor(uninitialized: [card.count], dtype: .u8)
        sent.withMutableElements(of: UInt8.self) { _ = $0.update(from: card) }
        let cards = try communicator.onHost.allGather(sent).withElements(of: UInt8.self) { bytes in
            (0..<communicator.size).map { Array(bytes[$0 * card.count..<($0 + 1) * card.count]) }
        }
        let isOneMachine = cards.allSatisfy { $0[0] == 1 && $0[65...] == card[65...] }
        var others: [CUDAPeerMemory?] = []
        if isOneMachine {
            others = cards.enumerated().map { rank, card in
                rank == communicator.rank
                    ? nil : try? CUDAPeerMemory(handle: Array(card[1..<65]), device: stream.device)
            }
        }
        let missing = isOneMachine ? others.filter { $0 == nil }.count - 1 : 1
        let worst = Tensor([Int32(missing)])
        try communicator.onHost.allReduce(worst, .max)
        guard worst.pointer(as: Int32.self).pointee == 0, let own else { return nil }
        return try GPUPeerSums(communicator, own: own, others: others, rows: rows, width: width, stream: stream)
    }

    private init(
        _ communicator: any Communicator, own: CUDASharedMemory, others: [CUDAPeerMemory?], rows: Int, width: Int,
        stream: CUDAStream
    ) throws {
        (self.rows, self.width, self.own, self.others) = (rows, width, own, others)
        Self.kept.withLock { $0 += [own] + others.compactMap { $0 } }
        slices = Self.slices(width)
        rank = communicator.rank
        begun = try CUDABuffer(byteCount: rows * slices * 4, stream: stream)
        try stream.fill(begun, with: 0)
        kernel = try stream.device.modules.kernel("add_peer_sums", in: KernelSources.source("rank_sums.cu"))
    }

    /// Blocks that share a row.
    static func slices(_ width: Int) -> Int { (width + 2047) / 2048 }

    /// Where this rank writes its part of a sum, bf16 `[row][width]`; sums take the two places by turns.
    func part(_ place: Int) -> UInt64 { own.address + offset(place) }

    private func offset(_ place: Int) -> UInt64 { UInt64(place * rows * width * 2) }

    /// Queues the sum of the parts at a place.
    func add(rows count: Int, place: Int, to memory: GPUDecoderMemory, nextNorm: CUDABuffer, on stream: CUDAStream)
        throws
    {
        var operands = Operands(
            begun: begun.address, rank: Int32(rank), ranks: Int32(others.count), blocks: Int32(rows * slices))
        let bases = others.map { $0?.address ?? own.address }
        withUnsafeMutableBytes(of: &operands.parts) { bytes in
            for (index, base) in bases.enumerated() {
                bytes.storeBytes(of: base + offset(place), toByteOffset: 8 * index, as: UInt64.self)
            }
        }
        withUnsafeMutableBytes(of: &operands.flags) { bytes in
            for (index, base) in bases.enumerated() {
                bytes.storeBytes(of: base + offset(2), toByteOffset: 8 * index, as: UInt64.self)
            }
        }
        try kernel.launch(
            grid: CUDAExtent(slices, count), block: 256, attributes: [.overlapsPredecessor], on: stream,
            .value(operands), .buffer(memory.residual), .buffer(nextNorm), .buffer(memory.normed),
            .buffer(memory.squares), .value(Int32(width)))
    }
}
