import ApusLayers
import ApusTensor

/// Multi-head and grouped latent attention in their decode form.
///
/// A token leaves its normalised latents and one rotated key in the cache. Few new tokens read them *absorbed*: the key
/// up-projection W_UK goes into the query, the value up-projection W_UV comes after attention, so that the latent is key and
/// value at once. Many read them *explicitly*: keys and values are up-projected block by block into a bounded workspace,
/// and what the blocks give is merged by log-sum-exp. `isExplicit` says which, by the measured cost of both.
///
/// A bias on the keys' up-projection adds the same to all scores of a query, so both forms leave it out.
///
/// Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1; "Hardware-Efficient Attention for Fast Decoding" (arXiv
/// 2505.21487), section 3.3.2.
public struct LatentAttention: DecodeAttention {
    /// How queries come from the hidden state.
    public enum Query: Sendable {
        /// One projection to h_q heads of [content | RoPE].
        case direct(LinearTerm)
        /// Projection to the query latents, their norms [query latents, width], and from each latent to the queries of its
        /// heads.
        case latent(down: LinearTerm, norm: Tensor, up: [LinearTerm])
    }

    let layer: Int
    let widths: LatentConfiguration
    let query: Query
    let down: LinearTerm
    let latentNorm: Tensor
    /// Of each latent head: to keys and values of its query heads, each [content | value]; bias on the values only.
    let up: [LinearTerm]
    /// Of each query head: W_UK transposed, [latent width, content width].
    let keyUp: [LinearTerm]
    /// Of each query head: W_UV, [value width, latent width], with bias.
    let valueUp: [LinearTerm]
    let geometry: CacheGeometry
    let parameters: AttentionParameters
    let backend: any Backend

    /// A layer from its weights.
    /// - Parameters:
    ///   - layer: its index in the cache.
    ///   - widths: the variant's widths.
    ///   - down: to all latents, then the RoPE key.
    ///   - latentNorm: float32 [latent heads, latent width].
    ///   - up: per latent head, weight [heads of it · (content + value), latent width] and float32 bias.
    ///   - geometry: of ``CacheGeometry/gla(queryHeads:latentHeads:latentWidth:ropeWidth:)``.
    /// - Throws: ``TensorError`` when a weight has no product on this backend.
    public init(
        layer: Int, widths: LatentConfiguration, query: Query, down: LinearTerm, latentNorm: Tensor,
        up: [(weight: Tensor, bias: Tensor?)], geometry: CacheGeometry, parameters: AttentionParameters,
        backend: any Backend
    ) throws {
        self.layer = layer
        self.widths = widths
        self.query = query
        self.down = down
        self.latentNorm = latentNorm
        self.geometry = geometry
        self.parameters = parameters
        self.backend = backend
        let split = UpProjections(widths, headsPerGroup: geometry.headsPerGroup, backend: backend)
        self.up = try up.map { try split.whole($0.weight, $0.bias) }
        keyUp = try up.flatMap { try split.keys($0.weight) }
        valueUp = try up.flatMap { try split.values($0.weight, $0.bias) }
    }

    /// See ``DecodeAttention/callAsFunction(_:_:)``.
    public func callAsFunction(_ x: Tensor, _ step: AttentionStep) -> Tensor {
        let tokens = x.shape[0]
        let (q, projected) = queries(x)  // [T, h_q, content + RoPE], [T, h_c · latent + RoPE]
        let states = geometry.groups * geometry.shared
        let latents = backend.rmsNorm(
            projected.columns(0..<states).splittingLastAxis(by: geometry.shared), weight: latentNorm,
            epsilon: Float(widths.normEpsilon))
        let key = projected.columns(states..<states + geometry.key).splittingLastAxis(by: geometry.key)
        step.rotary.rotate(q.columns(widths.contentWidth..<widths.queryWidth), backend)
        step.rotary.rotate(key, backend)
        step.cache.append(layer: layer, batch: step.batch, shared: latents, key: key, value: nil)

        let out = Tensor(uninitialized: [tokens, geometry.queryHeads, widths.valueWidth])
        for run in runs(step) {
            let rows =
                step.batch.queryOffsets[run.sequences.lowerBound]..<step.batch.queryOffsets[run.sequences.upperBound]
            if run.isExplicit {
                explicit(q.rows(rows), step, sequence: run.sequences.lowerBound, into: out.rows(rows))
            } else {
                let isWhole = run.sequences.count == step.batch.lengths.count
                let batch = isWhole ? step.batch : CacheBatch(step.batch, sequences: run.sequences)
                absorbed(q.rows(rows), batch, step.cache, into: out.rows(rows))
            }
        }
        return out.reshaped([tokens, geometry.queryHeads * widths.valueWidth])
    }

    /// Queries before rotation, and the projection to latents and RoPE key.
    private func queries(_ x: Tensor) -> (Tensor, Tensor) {
        let shape: Shape = [x.shape[0], geometry.queryHeads, widths.queryWidth]
        switch query {
        case .direct(let term):
            let projected = backend.linear(x, [term, down])
            return (projected[0].reshaped(shape), projected[1])
        case .latent(let queryDown, let norm, let up):
            let projected = backend.linear(x, [queryDown, down])
            let latents = backend.rmsNorm(
                projected[0].splittingLastAxis(by: norm.shape[1]), weight: norm, epsilon: Float(widths.normEpsilon))
            let q = Tensor(uninitialized: [x.shape[0], up.count, shape[1] / up.count * shape[2]])
            backend.linearPerHead(latents, up, into: q)
            return (q.reshaped(shape), projected[1])
        }
    }

    /// Sequences that follow each other and are read absorbed, or one that is read explicitly.
    private func runs(_ step: AttentionStep) -> [(sequences: Range<Int>, isExplicit: Bool)] {
        let batch = step.batch
        var runs: [(sequences: Range<Int>, isExplicit: Bool)] = []
        for index in batch.lengths.indices {
            let new = batch.queryOffsets[index + 1] - batch.queryOffsets[index]
            let isExplicit =
                step.latentReading.map { $0 == .explicit }
                ?? Self.isExplicit(
                    newTokens: new, length: batch.lengths[index], widths: widths, cacheType: step.cache.layout.shared)
            if !isExplicit, let last = runs.last, !last.isExplicit {
                runs[runs.count - 1].sequences = last.sequences.lowerBound..<index + 1
            } else {
                runs.append((index..<index + 1, isExplicit))
            }
        }
        return runs
    }

    /// Attention over the cached latents themselves.
    private func absorbed(_ q: Tensor, _ batch: CacheBatch, _ cache: PagedCache, into out: Tensor) {
        let query = Tensor(uninitialized: [q.shape[0], geometry.queryHeads, geometry.queryWidth])
        backend.linearPerHead(
            q.columns(0..<widths.contentWidth), keyUp, into: query.columns(0..<geometry.shared))
        query.columns(geometry.shared..<geometry.queryWidth).copyRows(
            from: q.columns(widths.contentWidth..<widths.queryWidth))
        let latents = cache.attend(query, layer: layer, batch: batch, parameters: parameters).output
        backend.linearPerHead(latents, valueUp, into: out)
    }

    /// Attention over keys and values up-projected from the latents, block by block. `out` [tokens, heads, value].
    private func explicit(_ q: Tensor, _ step: AttentionStep, sequence: Int, into out: Tensor) {
        guard let workspace = step.latentWorkspace else { preconditionFailure("latent attention without a workspace") }
        let (new, length) = (q.shape[0], step.batch.lengths[sequence])
        let first = length - new
        let logSumExp = Tensor(uninitialized: [new, geometry.queryHeads])
        logSumExp.withMutableElements(of: Float.self) { $0.update(repeating: -.infinity) }
        out.withMutableElements(of: Float.self) { $0.update(repeating: 0) }
        for start in stride(from: 0, to: length, by: workspace.blockTokens) {
            let end = min(start + workspace.blockTokens, length)
            let (latents, key) = step.cache.latents(
                layer: layer, batch: step.batch, sequence: sequence, tokens: start..<end)
            let expanded = Tensor(
                uninitialized: [
                    end - start, geometry.groups, geometry.headsPerGroup * (widths.contentWidth + widths.valueWidth),
                ])
            backend.linearPerHead(latents, up, into: expanded)
            workspace.fill(
                expanded.reshaped([end - start, geometry.queryHeads, widths.contentWidth + widths.valueWidth]),
                rotaryKey: key)
            // New tokens of this block see it causally, later ones whole.
            let inside = max(start, first)..<max(end, first)
            workspace.attend(
                q, rows: inside.lowerBound - first..<inside.upperBound - first, causal: true, parameters, into: out,
                logSumExp)
            workspace.attend(
                q, rows: inside.upperBound - first..<new, causal: false, parameters, into: out, logSumExp)
        }
    }
}
