/// The CUDA C++ of the tensor kernels, embedded in the binary by the build: the files of `Kernels/`, one line each.
public enum KernelSources {
    /// Kernel files by name.
    public static let kernels: [String: String] = [
        "adamw.cu": text(PackageResources.adamw_cu),
        "attention_backward_keys.cu": text(PackageResources.attention_backward_keys_cu),
        "attention_backward_queries.cu": text(PackageResources.attention_backward_queries_cu),
        "attention_forward.cu": text(PackageResources.attention_forward_cu),
        "attention_once.cu": text(PackageResources.attention_once_cu),
        "cross_entropy.cu": text(PackageResources.cross_entropy_cu),
        "cross_entropy_ahead.cu": text(PackageResources.cross_entropy_ahead_cu),
        "decoder_step.cu": text(PackageResources.decoder_step_cu),
        "elementwise.cu": text(PackageResources.elementwise_cu),
        "embedding.cu": text(PackageResources.embedding_cu),
        "experts.cu": text(PackageResources.experts_cu),
        "norm.cu": text(PackageResources.norm_cu),
        "norm_registers.cu": text(PackageResources.norm_registers_cu),
        "quantised_weights.cu": text(PackageResources.quantised_weights_cu),
        "rank_sums.cu": text(PackageResources.rank_sums_cu),
        "reductions.cu": text(PackageResources.reductions_cu),
        "rope.cu": text(PackageResources.rope_cu),
        "row_products.cu": text(PackageResources.row_products_cu),
        "sharded_cross_entropy.cu": text(PackageResources.sharded_cross_entropy_cu),
        "swiglu.cu": text(PackageResources.swiglu_cu),
        "tall_products.cu": text(PackageResources.tall_products_cu),
    ]

    /// What kernel files include, those of other targets too.
    public static let headers: [CUDASource.Header] = [
        CUDASource.Header(name: "attention_backward.cuh", text: text(PackageResources.attention_backward_cuh)),
        CUDASource.Header(name: "attention_items.cuh", text: text(PackageResources.attention_items_cuh)),
        CUDASource.Header(name: "attention_panels.cuh", text: text(PackageResources.attention_panels_cuh)),
        CUDASource.Header(name: "fragments.cuh", text: text(PackageResources.fragments_cuh)),
        CUDASource.Header(name: "ptx.cuh", text: text(PackageResources.ptx_cuh)),
        CUDASource.Header(name: "quantised_weights.cuh", text: text(PackageResources.quantised_weights_cuh)),
        CUDASource.Header(name: "residual_rows.cuh", text: text(PackageResources.residual_rows_cuh)),
        CUDASource.Header(name: "row_products.cuh", text: text(PackageResources.row_products_cuh)),
        CUDASource.Header(name: "rows.cuh", text: text(PackageResources.rows_cuh)),
        CUDASource.Header(name: "softmax.cuh", text: text(PackageResources.softmax_cuh)),
    ]

    /// A kernel file with its headers and the macros that choose its variant. Precondition: a file of ``kernels``.
    public static func source(_ file: String, defines: [String: String] = [:]) -> CUDASource {
        guard let text = kernels[file] else { preconditionFailure("no kernel file \(file)") }
        return CUDASource(name: file, text: text, headers: headers(of: text), defines: defines)
    }

    /// The headers among `known` that a source includes, directly or through others, by name: what else changes does not
    /// compile it anew.
    public static func headers(
        of source: String, among known: [CUDASource.Header] = headers
    ) -> [CUDASource.Header] {
        var names: Set<String> = []
        var waiting = [source]
        while let text = waiting.popLast() {
            for line in text.split(whereSeparator: \.isNewline) where line.hasPrefix("#include \"") {
                let name = String(line.dropFirst(10).prefix { $0 != "\"" })
                guard let header = known.first(where: { $0.name == name }) else { continue }
                if names.insert(name).inserted { waiting.append(header.text) }
            }
        }
        return known.filter { names.contains($0.name) }
    }

    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
}
