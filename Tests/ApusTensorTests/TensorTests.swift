import ApusTensor
import Testing

@Suite struct ShapeTests {
    @Test func stridesCountAndEquality() {
        let shape: Shape = [2, 3, 5]
        #expect(shape.count == 30)
        #expect(shape.rowMajorStrides == [15, 5, 1])
        #expect(shape[-1] == 5 && shape[0] == 2)
        #expect(shape != [2, 3, 5, 1])
        #expect(Shape([]).count == 1)
        #expect(shape.description == "[2, 3, 5]")
    }

    @Test func rejectsWhatIsNoShape() async {
        await #expect(processExitsWith: .failure) { _ = Shape([1, 1, 1, 1, 1, 1, 1]) }
        await #expect(processExitsWith: .failure) { _ = Shape([-1]) }
    }
}

@Suite struct DTypeTests {
    /// Sizes of ggml's block structs.
    @Test(arguments: [
        (DType.q8_0, 64, 68), (.q4_0, 64, 36), (.q4_1, 64, 40), (.q4_K, 512, 288), (.q6_K, 256, 210), (.f32, 3, 12),
        (.bf16, 3, 6), (.f64, 1, 8),
    ])
    func bytesOfARow(_ dtype: DType, _ elements: Int, _ bytes: Int) {
        #expect(dtype.byteCount(elements: elements) == bytes)
    }

    @Test func rowsThatAreNoWholeBlocksHaveNoSize() {
        #expect(DType.q4_K.byteCount(elements: 255) == nil)
        #expect(DType.f32.byteCount(elements: Int.max) == nil)
        #expect(DType.f32.byteCount(elements: -1) == nil)
        #expect(Tensor.byteCount(shape: [Int.max / 2, 4], dtype: .u8) == nil)
    }
}

@Suite struct TensorTests {
    @Test func viewsShareStorage() {
        let tensor = Tensor((0..<24).map(Float.init), shape: [4, 6])
        let rows = tensor.rows(1..<3)
        #expect(rows.shape == [2, 6])
        #expect(rows.floats == (6..<18).map(Float.init))
        #expect(tensor.reshaped([2, 3, 4]).floats == tensor.floats)
        rows.withMutableElements(of: Float.self) { $0[0] = -1 }
        #expect(tensor.floats[6] == -1)
        #expect(
            tensor.gatheringRows([3, 0, 3]).floats == [
                18, 19, 20, 21, 22, 23, 0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 22, 23,
            ])
    }

    @Test func packedRowsStartAtBlocks() {
        let tensor = Tensor(uninitialized: [3, 64], dtype: .q4_1)
        #expect(tensor.byteCount == 3 * 40)
        #expect(tensor.rows(2..<3).byteOffset == 80)
    }

    @Test func memoryThatCannotBeHadIsAnError() {
        #expect(throws: TensorError.self) { try Storage.allocate(byteCount: 1 << 60) }
        #expect(throws: TensorError.self) { try Storage.allocate(byteCount: -1) }
    }

    /// Blocks handed out at the same time never overlap and are aligned, whatever the order of taking and giving.
    @Test func storageFromThePoolNeverOverlaps() async {
        await withTaskGroup(of: Bool.self) { group in
            for worker in 0..<4 {
                group.addTask {
                    var held: [(Storage, UInt8)] = []
                    var state = UInt64(worker + 1)
                    for step in 0..<3_000 {
                        state = state &* 6_364_136_223_846_793_005 &+ 1
                        if held.count > 20 || (state >> 60) < 5, let index = held.indices.randomElement() {
                            let (storage, mark) = held.remove(at: index)
                            for offset in 0..<storage.byteCount
                            where storage.base.load(fromByteOffset: offset, as: UInt8.self) != mark { return false }
                        } else {
                            let storage = Storage(byteCount: Int((state >> 33) % 5000))
                            if UInt(bitPattern: storage.base) % 64 != 0 { return false }
                            let mark = UInt8(truncatingIfNeeded: worker * 64 + step % 64)
                            storage.base.initializeMemory(as: UInt8.self, repeating: mark, count: storage.byteCount)
                            held.append((storage, mark))
                        }
                    }
                    return true
                }
            }
            for await right in group { #expect(right) }
        }
    }
}

@Suite struct CPUBackendTests {
    @Test func everyIndexRunsOnce() {
        let backend = CPUBackend(threads: 3)
        for count in [0, 1, 2, 7, 1000] {
            let hits = Tensor([Int32](repeating: 0, count: max(count, 1)))
            backend.concurrently(count) { index in hits.pointer(as: Int32.self)[index] += 1 }
            #expect(hits.withElements(of: Int32.self) { $0.prefix(count).allSatisfy { $0 == 1 } })
        }
    }

    @Test func dtypesWithoutProductsAreRefused() {
        let weight = Tensor(uninitialized: [2, 32], dtype: .i32)
        #expect(
            throws: TensorError.dtype(
                operation: "product", expected: "f32, bf16, f16 or packed blocks", found: .i32)
        ) { _ = try CPUBackend.shared.prepare(weight) }
        #expect(throws: TensorError.self) { _ = try CPUBackend.shared.prepare(Tensor(uninitialized: [4])) }
    }
}
