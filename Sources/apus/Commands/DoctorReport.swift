import ApusTensor
import ApusText
import CApusKernels

/// What `apus doctor` finds.
struct DoctorReport {
    /// A GPU, and its measured rates or the reasons why there are none.
    struct GPU {
        let device: CUDADevice
        let freeMemory: Result<Int, any Error>
        let copyBandwidth: Result<Double, any Error>?
        let bf16ProductRate: Result<Double, any Error>?

        init(device: CUDADevice, measure: Bool) {
            self.device = device
            freeMemory = Result { try device.memory().free }
            copyBandwidth = measure ? Result { try CUDAMeasurement(device: device).copyBandwidth() } : nil
            if measure { device.allocator.releaseCached() }
            bf16ProductRate = measure ? Result { try CUDAMeasurement(device: device).bf16ProductRate() } : nil
            if measure { device.allocator.releaseCached() }
        }
    }

    /// Measured rates of the CPU, or the reasons why there are none.
    struct CPU {
        let readBandwidth: Result<Double, any Error>
        let productRates: [(name: String, rate: Result<Double, any Error>)]

        init() {
            let measurement = CPUMeasurement()
            readBandwidth = Result { try measurement.readBandwidth() }
            productRates = [("f32", DType.f32), ("bf16", .bf16), ("packed", .q8_0)].map { name, dtype in
                (name, Result { try measurement.productRate(weights: dtype) })
            }
        }
    }

    let cpu: CPU?
    let threads = CPUBackend.shared.threads
    let features = String(cString: apus_cpu_features())
    let instructionSet = String(cString: apus_isa())
    let oneDNN = String(cString: apus_onednn_status())
    let libraries: [(name: String, report: CUDALibraryReport)] = [
        ("driver", CUDALibraries.driver.report), ("NVRTC", CUDALibraries.nvrtc.report),
        ("cuBLASLt", CUDALibraries.cublasLt.report),
    ]
    let kernelFolder = CUDACubinCache.defaultFolder()
    let gpus: Result<[GPU], any Error>

    init(measure: Bool) {
        cpu = measure ? CPU() : nil
        gpus = Result {
            guard CUDALibraries.driver.report.status == .loaded else { return [] }
            return try (0..<CUDADevice.count()).map { GPU(device: try CUDADevice.device($0), measure: measure) }
        }
    }

    var text: String {
        var lines = ["CPU"]
        func add(_ name: String, _ value: String) {
            lines.append("  " + name + String(repeating: " ", count: max(1, 10 - name.count)) + value)
        }
        add("threads", "\(threads)")
        add("features", features)
        add("products", instructionSet)
        add("oneDNN", oneDNN)
        add("memory", "\(tenths(CPUMeasurement.memoryBytes, of: 1 << 30)) GiB")
        if let cpu {
            add("reading", describe(cpu.readBandwidth) { "\(hundredths($0 / 1e9)) GB/s (bf16 weights, one row)" })
            for (name, rate) in cpu.productRates {
                add(name, describe(rate) { "\(Int(($0 / 1e9).rounded())) G operations/s (512 rows, 2048 squared)" })
            }
        }
        lines.append("CUDA")
        for (name, report) in libraries {
            add(name, report.status == .loaded ? "\(report.versionText), \(report.path)" : report.message)
        }
        add("kernels", kernelFolder.map { "kept in \($0)" } ?? "not kept: set APUS_CACHE")
        switch gpus {
        case .failure(let error): add("GPUs", "\(error)")
        case .success(let gpus):
            if gpus.isEmpty { add("GPUs", "none") }
            for gpu in gpus {
                lines.append("GPU \(gpu.device.ordinal)")
                add("name", gpu.device.name)
                add(
                    "has",
                    "compute capability \(gpu.device.capability.major).\(gpu.device.capability.minor), "
                        + "\(gpu.device.multiprocessorCount) multiprocessors, \(gpu.device.l2Bytes >> 20) MiB of L2")
                add(
                    "memory",
                    "\(describe(gpu.freeMemory) { tenths($0, of: 1 << 30) }) GiB free of "
                        + tenths(gpu.device.totalMemory, of: 1 << 30))
                if let rate = gpu.copyBandwidth {
                    add("copy", describe(rate) { "\(hundredths($0 / 1e12)) TB/s (read and written bytes together)" })
                }
                if let rate = gpu.bf16ProductRate {
                    add(
                        "product",
                        describe(rate) { "\(Int(($0 / 1e12).rounded())) TFLOP/s (bf16, 8192 cubed, random numbers)" })
                }
            }
        }
        return lines.joined(separator: "\n")
    }

    var json: JSONValue {
        var members: [(String, JSONValue)] = [
            ("threads", .integer(Int64(threads))), ("features", .string(features)),
            ("instructionSet", .string(instructionSet)), ("memoryBytes", .integer(Int64(CPUMeasurement.memoryBytes))),
        ]
        if let cpu {
            members.append(("readBytesPerSecond", value(cpu.readBandwidth) { .double($0) }))
            for (name, rate) in cpu.productRates {
                members.append((name + "OperationsPerSecond", value(rate) { .double($0) }))
            }
        }
        let cpu = JSONValue.object(JSONObject(members))
        let found = libraries.map { name, report -> (String, JSONValue) in
            (
                name,
                [
                    "status": .string(report.status.rawValue), "version": .string(report.versionText),
                    "path": .string(report.path), "message": .string(report.message),
                ]
            )
        }
        members = [
            ("cpu", cpu), ("cuda", .object(JSONObject(found))),
            ("kernelFolder", kernelFolder.map { .string($0) } ?? .null),
        ]
        switch gpus {
        case .failure(let error): members.append(("gpuProblem", .string("\(error)")))
        case .success(let gpus): members.append(("gpus", .array(gpus.map(json))))
        }
        return .object(JSONObject(members))
    }

    private func json(_ gpu: GPU) -> JSONValue {
        let device = gpu.device
        return [
            "ordinal": .integer(Int64(device.ordinal)), "name": .string(device.name),
            "capability": .string("\(device.capability.major).\(device.capability.minor)"),
            "multiprocessors": .integer(Int64(device.multiprocessorCount)), "l2Bytes": .integer(Int64(device.l2Bytes)),
            "memoryBytes": .integer(Int64(device.totalMemory)),
            "freeBytes": value(gpu.freeMemory) { .integer(Int64($0)) },
            "copyBytesPerSecond": value(gpu.copyBandwidth) { .double($0) },
            "bf16OperationsPerSecond": value(gpu.bf16ProductRate) { .double($0) },
        ]
    }

    private func value<T>(_ result: Result<T, any Error>?, _ convert: (T) -> JSONValue) -> JSONValue {
        switch result {
        case nil: .null
        case .success(let value)?: convert(value)
        case .failure(let error)?: ["problem": .string("\(error)")]
        }
    }

    private func describe<T>(_ result: Result<T, any Error>, _ text: (T) -> String) -> String {
        switch result {
        case .success(let value): text(value)
        case .failure(let error): "\(error)"
        }
    }

    private func tenths(_ count: Int, of unit: Int) -> String {
        decimal(Int((Double(count) / Double(unit) * 10).rounded()), 10)
    }

    private func hundredths(_ value: Double) -> String { decimal(Int((value * 100).rounded()), 100) }

    private func decimal(_ value: Int, _ unit: Int) -> String {
        let rest = String(value % unit)
        let digits = String(unit).count - 1
        return "\(value / unit)." + String(repeating: "0", count: digits - rest.count) + rest
    }
}
