import ApusTensor
import Testing

/// Rules of memory that the CPU does not reach, without a GPU.
@Suite struct DeviceTensorTests {
    /// As a backend makes it when the GPU has no memory left.
    private func absent(_ shape: Shape) -> Tensor {
        Tensor(
            storage: Storage(nil, byteCount: 4 * shape.count, device: .cuda(1)), shape: shape, dtype: .f32)
    }

    @Test func aTensorKnowsItsDevice() {
        let tensor = absent([2, 3])
        #expect(tensor.device == .cuda(1) && tensor.rows(1..<2).device == .cuda(1))
        #expect(Tensor([1, 2], shape: [2]).device == .cpu)
        // What has failed has no elements, and says so.
        #expect(tensor.floats.count == 6 && tensor.floats.allSatisfy(\.isNaN))
        tensor.fillWithZeros()
    }

    @Test func theCPUDoesNotReachIt() async {
        await #expect(processExitsWith: .failure) {
            let storage = Storage(nil, byteCount: 4, device: .cuda(0))
            _ = Tensor(storage: storage, shape: [1], dtype: .f32).pointer(as: Float.self)
        }
    }

    @Test(.enabled(if: CUDALibraries.driver.report.status == .missing))
    func withoutADriverABackendSaysWhatIsMissing() {
        let error = #expect(throws: CUDAError.self) { _ = try CUDABackend() }
        guard case .library(let message) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(message.contains("libcuda"))
    }

    @Test func anOldGPUIsNamed() {
        let error = CUDAError.capability(device: "NVIDIA A100", found: "8.0", expected: "9.0")
        #expect("\(error)".contains("NVIDIA A100") && "\(error)".contains("8.0") && "\(error)".contains("9.0"))
    }

    @Test func theCheckHoldsTheCPUAgainstFloat64() throws {
        var check = TensorCheck(CPUBackend(threads: 2), cases: 2, seed: 5)
        let rows = try check.run()
        #expect(rows.count > 80)
        for row in rows { #expect(row.passes, "\(row)") }
    }
}
