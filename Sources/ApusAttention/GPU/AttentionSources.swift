import ApusTensor

/// The CUDA C++ of the attention kernels, embedded in the binary by the build: the files of `Kernels/`, one line each.
public enum AttentionSources {
    /// Kernel files by name.
    public static var kernels: [String: String] {
        [
            "append.cu": text(PackageResources.append_cu),
            "check.cu": text(PackageResources.check_cu),
            "decode.cu": text(PackageResources.decode_cu),
            "decode_few.cu": text(PackageResources.decode_few_cu),
            "decode_fp8.cu": text(PackageResources.decode_fp8_cu),
            "decode_fp8_tall.cu": text(PackageResources.decode_fp8_tall_cu),
            "decode_wide.cu": text(PackageResources.decode_wide_cu),
            "grouped_append.cu": text(PackageResources.grouped_append_cu),
            "grouped_step.cu": text(PackageResources.grouped_step_cu),
            "head_products.cu": text(PackageResources.head_products_cu),
            "naive_decode.cu": text(PackageResources.naive_decode_cu),
            "prefill.cu": text(PackageResources.prefill_cu),
            "schedule.cu": text(PackageResources.schedule_cu),
            "shared_append.cu": text(PackageResources.shared_append_cu),
        ]
    }

    /// What the kernel files include beside ``KernelSources/headers``.
    public static let headers: [CUDASource.Header] = [
        CUDASource.Header(name: "decode_loads.cuh", text: text(PackageResources.decode_loads_cuh)),
        CUDASource.Header(name: "decode_parameters.cuh", text: text(PackageResources.decode_parameters_cuh)),
        CUDASource.Header(name: "decode_rows.cuh", text: text(PackageResources.decode_rows_cuh)),
        CUDASource.Header(name: "fp8_blocks.cuh", text: text(PackageResources.fp8_blocks_cuh)),
        CUDASource.Header(name: "fp8_codes.cuh", text: text(PackageResources.fp8_codes_cuh)),
        CUDASource.Header(name: "fp8_loads.cuh", text: text(PackageResources.fp8_loads_cuh)),
        CUDASource.Header(name: "fp8_products.cuh", text: text(PackageResources.fp8_products_cuh)),
        CUDASource.Header(name: "grouped_rows.cuh", text: text(PackageResources.grouped_rows_cuh)),
        CUDASource.Header(name: "merge.cuh", text: text(PackageResources.merge_cuh)),
        CUDASource.Header(name: "partials.cuh", text: text(PackageResources.partials_cuh)),
        CUDASource.Header(name: "rotary_rows.cuh", text: text(PackageResources.rotary_rows_cuh)),
        CUDASource.Header(name: "schedule.cuh", text: text(PackageResources.schedule_cuh)),
        CUDASource.Header(name: "transposed_rows.cuh", text: text(PackageResources.transposed_rows_cuh)),
    ]

    /// A kernel file with its headers and the macros that choose its variant. Precondition: a file of ``kernels``.
    public static func source(_ file: String, defines: [String: String] = [:]) -> CUDASource {
        guard let text = kernels[file] else { preconditionFailure("no kernel file \(file)") }
        let known = headers + KernelSources.headers
        return CUDASource(
            name: file, text: text, headers: KernelSources.headers(of: text, among: known), defines: defines)
    }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}
